"""A radius without tuning against SGD and against fixed λ, on five data sets.

All runs of a data set and protocol are vmapped in one program. Each run is logged as
one JSON line; `page` turns the lines into Markdown.
"""

import csv
import functools
import itertools
import math
import pathlib
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import xlogy
from sklearn.model_selection import train_test_split

import absgd_jax
from absgd_jax import _radius, _weights
from experiments import commands, configs
from experiments.data import imbalance, label_noise
from experiments.data.digits import digits
from experiments.data.types import MissingData
from experiments.results import run_dir, run_log
from experiments.studies import untuned_report
from experiments.studies.untuned_report import DATA, HEAD, RATES, RUNS, Setting

WIDTH, BATCH, MOMENTUM = 64, 64, 0.9
STAGE = 600  # steps; from step 0 it is two of them
WINDOW = 50  # steps in one dispatch, and behind the smallest mean weight
NO_BOUND = 1e9  # larger than any weight: batch / γ at most
TAIL, NOISE = 50, 0.4


_Part = tuple[np.ndarray, np.ndarray]  # inputs and labels


class Task(NamedTuple):
    """One data set, split by each of S seeds."""

    train: _Part  # float32 [S, n, d], int32 [S, n]
    held_out: dict[str, _Part]  # val, test: inputs and labels as in `train`
    params: Any = None  # [S, ...] of a first stage that is over; None to train one


class Hyperparams(NamedTuple):
    """The arguments in which the runs of one program differ, each [runs]."""

    rate: Any
    lam: Any
    rho: Any
    gamma: Any
    bound: Any
    seed: Any  # int, index into the task's seeds


def load(name: str, data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `[n, d]` and labels `[n]` in 0 ... classes − 1."""
    if name.startswith("digits"):
        images, labels = digits()
        return images.reshape(len(images), -1), labels
    path = data_dir.expanduser() / f"{name}.csv"
    if not path.exists():
        raise MissingData(f"{name} is read from a directory: no {path.name} in it.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    labels = np.unique([row[-1] for row in rows], return_inverse=True)[1]
    return np.array([row[:-1] for row in rows], np.float32), labels.astype(np.int32)


def task(name: str, data_dir: pathlib.Path, seeds: Sequence[int]) -> Task:
    """60% to train, 20% each held out, stratified, standardised by the first."""
    if name == HEAD:
        return _head(data_dir, seeds)
    inputs, labels = load(name, data_dir)
    tail = TAIL if name == "digits-tail" else 1.0
    noise = NOISE if name == "digits-noise" else 0.0
    return stacked([split(inputs, labels, seed, tail, noise) for seed in seeds])


def _head(data_dir: pathlib.Path, seeds: Sequence[int]) -> Task:
    """The last layer of trained networks, on what enters it; halves are held out."""
    path = data_dir.expanduser() / f"{HEAD}.npz"
    if not path.exists():
        raise MissingData(
            f"{path} is not there: python -m experiments reproduce --features "
            f"{shlex.quote(str(path))}"
        )
    with np.load(path) as file:
        arrays = {name: file[name][list(seeds)] for name in file.files}
    half = lambda i: (arrays["test"][:, i::2], arrays["test_labels"][:, i::2])
    return Task(
        (arrays["train"], arrays["train_labels"]),
        {"val": half(0), "test": half(1)},
        [{"w": arrays["kernel"], "b": arrays["bias"]}],
    )


def stacked(splits: Sequence[dict[str, _Part]]) -> Task:
    """The task of what `split` makes of each seed."""
    stack = lambda part, i: np.stack([split[part][i] for split in splits])
    parts = {part: (stack(part, 0), stack(part, 1)) for part in splits[0]}
    return Task(parts.pop("train"), parts)


def split(
    inputs: np.ndarray, labels: np.ndarray, seed: int, tail: float, noise: float
) -> dict[str, _Part]:
    """The parts of one seed; the training part may have a long tail and label noise.

    Inputs are `[n, d]`, labels `[n]`. `tail` is the ratio of the long tail, 1 for none;
    `noise` the fraction of each class's labels that are flipped.
    """
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed
    )
    train, val = train_test_split(
        rest, test_size=0.25, stratify=labels[rest], random_state=seed
    )
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    train_labels = labels[train]
    if tail > 1.0:
        head = int(np.bincount(train_labels).min())
        counts = imbalance.long_tail_counts(head, classes, tail)
        kept = [np.flatnonzero(train_labels == k)[:n] for k, n in enumerate(counts)]
        train, train_labels = (a[np.concatenate(kept)] for a in (train, train_labels))
    if noise > 0.0:
        train_labels, _ = label_noise.symmetric_noise(train_labels, noise, classes, rng)
    mean, std = inputs[train].mean(0), inputs[train].std(0)
    inputs = (inputs - mean) / np.where(std > 1e-6, std, 1.0)
    parts = {"val": val, "test": test}
    return {"train": (inputs[train], train_labels)} | {
        k: (inputs[part], labels[part]) for k, part in parts.items()
    }


def batches(examples: int, steps: int, seed: int) -> np.ndarray:
    """Indices of the batch of each step, int `[steps, BATCH]`: reshuffled epochs."""
    rng = np.random.default_rng(seed)
    epochs = math.ceil(steps * BATCH / examples)
    order = np.concatenate([rng.permutation(examples) for _ in range(epochs)])
    return order[: steps * BATCH].reshape(steps, BATCH)


def initial_params(inputs: int, classes: int, seed: int) -> list[dict[str, np.ndarray]]:
    """He's initialisation of two hidden layers and a linear one."""
    rng, sizes = np.random.default_rng(seed), (inputs, WIDTH, WIDTH, classes)
    return [
        {
            "w": rng.normal(0, math.sqrt(2 / m), (m, n)).astype(np.float32),
            "b": np.zeros(n, np.float32),
        }
        for m, n in itertools.pairwise(sizes)
    ]


def logits(params: Any, x: jax.Array) -> jax.Array:
    """`[batch, classes]`."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def cross_entropy(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Losses `[batch]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)


_Attention = tuple[Callable[[], Any], Callable[..., tuple[jax.Array, Any]]]


def _attention(run: Hyperparams, form: str, sign: int) -> _Attention:
    """The functions init and weigh of a form of weights: a setting's, or "fixed"."""
    if form == "fixed":
        return absgd_jax.attention(run.lam, run.gamma)
    if form == "scent-fixed":
        return _scent(run, run.lam, None)
    radius = absgd_jax.kl_radius(run.rho, sign)
    if form == "scent":
        return _scent(run, radius, run.bound)
    if form == "library":
        return absgd_jax.attention(radius, run.gamma, max_weight=run.bound)
    if form == "bounded":
        return _by_the_bounded_weights(run, radius)
    free = absgd_jax.attention(radius, run.gamma, max_weight=math.inf)

    def clip(losses: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        p, state = free.weigh(losses, state)
        return jnp.minimum(p, run.bound), state

    return free.init, clip


def _scent(run: Hyperparams, lam: Any, bound: Any) -> _Attention:
    """γ_t = a s / (1 + a s) with a the gamma of the run; s_1 is of the first batch."""
    of = lambda gamma: absgd_jax.attention(lam, gamma, max_weight=bound)

    def weigh(losses: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        log_as = jnp.log(run.gamma) + state.tilted_loss / state.lam
        gamma = jnp.where(state.count == 0, 1.0, jax.nn.sigmoid(log_as))
        return of(jnp.maximum(gamma, 1e-6)).weigh(losses, state)

    return of(0.5).init, weigh


def _by_the_bounded_weights(run: Hyperparams, radius: Any) -> _Attention:
    """λ follows the divergence of the weights that are used."""
    bounded = lambda lam: absgd_jax.attention(lam, run.gamma, max_weight=run.bound)

    def init() -> Any:
        start = bounded(1.0).init()
        return start._replace(lam=jnp.full_like(start.lam, radius.sign * jnp.inf))

    def weigh(losses: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        p, after = bounded(state.lam).weigh(losses, state)
        batch = _weights.Batch(losses, jnp.ones_like(losses))
        limited = _weights.limit(batch, state.lam, state)
        reached = jnp.mean(xlogy(p, p) - p + 1.0)
        lam = _radius.follow(radius, state.lam, reached, limited.max(), limited.min())
        return p, after._replace(lam=lam)

    return init, weigh


@functools.partial(jax.jit, static_argnames=("form", "sign"), donate_argnums=0)
def _advance(
    carry: Any,
    runs: Hyperparams,
    examples: tuple[jax.Array, jax.Array],
    order: jax.Array,  # int [steps, S, BATCH]
    form: str,
    sign: int,
) -> tuple[Any, jax.Array]:
    """Makes some steps of all runs; mean weight and divergence, `[runs, 2]`."""

    def step(carry: Any, indices: jax.Array) -> tuple[Any, jax.Array]:
        take = jax.vmap(lambda part, index: part[index])
        batch = [take(part, indices) for part in examples]

        def one(carry: Any, run: Hyperparams) -> tuple[Any, jax.Array]:
            params, opt_state, state = carry
            x, y = (part[run.seed] for part in batch)
            _, weigh = _attention(run, form, sign)

            def loss_fn(params: Any) -> tuple[jax.Array, Any]:
                losses = cross_entropy(params, x, y)
                p, after = weigh(losses, state)
                return jnp.mean(p * losses), (p, after)

            grads, (p, state) = jax.grad(loss_fn, has_aux=True)(params)
            updates, opt_state = optax.sgd(run.rate, MOMENTUM).update(grads, opt_state)
            seen = jnp.stack([jnp.mean(p), jnp.mean(xlogy(p, p) - p + 1.0)])
            return (optax.apply_updates(params, updates), opt_state, state), seen

        return jax.vmap(one)(carry, runs)

    carry, seen = jax.lax.scan(step, carry, order)
    return carry, seen.mean(0)


@jax.jit
def _recalls(params: Any, seed: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Recall of each class, then accuracy: `[runs, classes + 1]`."""

    def one(run: Any) -> jax.Array:
        params, seed = run
        right = jnp.argmax(logits(params, x[seed]), -1) == y[seed]
        of_class = jax.nn.one_hot(y[seed], params[-1]["b"].shape[0])
        recalls = right @ of_class / of_class.sum(0)
        return jnp.append(recalls, right.mean())

    return jax.lax.map(one, (params, seed), batch_size=16)


def _kind(setting: Setting) -> str:
    """A key of settings that differ only in numbers, and so share a program."""
    if setting.rho is not None:
        return setting.form
    return "scent-fixed" if setting.form == "scent" else "fixed"


def train(
    data: Task,
    protocol: str,
    sign: int,
    jobs: Sequence[tuple[float, Setting, int]],
    seeds: Sequence[int],
    steps: int,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Trains all jobs, each a learning rate, setting and seed, in one program.

    The protocol "second stage" is `steps` of SGD at the largest rate, the same for all
    jobs of a seed, then as many of the job's own; "from step 0" is twice as many of
    these. `sign` is that of λ, `seeds` are those of the data, and all jobs are of one
    kind. Returns parameters `[jobs, ...]`; and what is recorded, each `[jobs]`.
    """
    (form,) = {_kind(s) for _, s, _ in jobs}
    rows = [
        (rate, sign * (s.lam or 1), s.rho or 1, s.gamma, s.bound) for rate, s, _ in jobs
    ]
    numbers = np.minimum(rows, [np.inf, np.inf, *[NO_BOUND] * 3]).astype(np.float32)
    runs = Hyperparams(*numbers.T, seed=np.array([seeds.index(s) for *_, s in jobs]))
    x, y = data.train
    order = np.stack([batches(x.shape[1], 2 * steps, seed) for seed in seeds], 1)
    params = [initial_params(x.shape[-1], int(y.max()) + 1, seed) for seed in seeds]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    if data.params is not None:
        params, order = data.params, order[steps:]
    elif protocol == "second stage":
        plain = [(max(RATES), untuned_report.SGD, seed) for seed in seeds]
        params, _ = train(data, "first stage", 1, plain, seeds, steps)
        order = order[steps:]
    elif protocol == "first stage":
        order = order[:steps]
    params = jax.tree.map(lambda leaf: leaf[runs.seed], params)
    begin = lambda params, run: (
        params,
        optax.sgd(run.rate, MOMENTUM).init(params),
        _attention(run, form, sign)[0](),
    )
    carry, seen = jax.jit(jax.vmap(begin))(params, runs), []
    windows = [order[at : at + WINDOW] for at in range(0, len(order), WINDOW)]
    for window in windows:
        carry, of_window = _advance(carry, runs, data.train, window, form, sign)
        seen.append(of_window)
    params, _, state = carry
    seen, shares = np.array(seen), np.array([*map(len, windows)]) / len(order)
    mean, divergence = np.einsum("w,wrk->kr", shares, seen)
    measured = {}
    for name, part in data.held_out.items():
        recalls = np.array(_recalls(params, runs.seed, *part))
        measured[name] = recalls[:, -1] if sign < 0 else recalls[:, :-1].mean(1)
    measured |= {"mean": mean, "low": seen[..., 0].min(0), "kl": divergence}
    return params, measured | {"lam": np.array(state.lam)}


def run(
    out: pathlib.Path,
    data_dir: pathlib.Path,
    names: Iterable[str],
    seeds: Sequence[int],
    settings: Sequence[Setting],
    steps: int = STAGE,
) -> None:
    """Trains the runs that are not recorded, and appends their results."""
    done = {tuple(r[k] for k in RUNS) for r in run_log.events(out, *RUNS)[0]}
    for name in names:
        data = task(name, data_dir, seeds)
        for protocol in untuned_report.PROTOCOLS[: 1 if data.params else None]:
            for kind in dict.fromkeys(map(_kind, settings)):
                same_kind = [setting for setting in settings if _kind(setting) == kind]
                jobs = [
                    (rate, s, seed)
                    for s, rate, seed in itertools.product(same_kind, RATES, seeds)
                    if (name, protocol, rate, s.name, seed) not in done
                ]
                if not jobs:
                    continue
                began = time.monotonic()
                _, measured = train(data, protocol, DATA[name], jobs, seeds, steps)
                lines = [
                    dict(zip(RUNS, (name, protocol, rate, s.name, seed), strict=True))
                    | {k: _short(k, v[i]) for k, v in measured.items()}
                    for i, (rate, s, seed) in enumerate(jobs)
                ]
                run_log.append(out, lines)
                print(f"{name}, {protocol}: {len(jobs)} runs", end=", ")
                print(f"{time.monotonic() - began:.0f} s", flush=True)


def _short(key: str, value: np.floating) -> float | None:
    """Five digits of a metric, three of what is there to be looked at."""
    digits = 5 if key in ("val", "test") else 3
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def main(config: commands.Untuned) -> int:
    """Trains, records, and writes the page next to the records; returns 0."""
    names = dict.fromkeys(config.data or (name for name in DATA if name != HEAD))
    seeds, out = range(config.seeds), config.out
    if unknown := [name for name in names if name not in DATA]:
        raise configs.BadConfiguration(
            f"There is no data set {unknown[0]!r}: there are {', '.join(DATA)}."
        )
    with run_dir.lock(out.parent, out.name):
        for name in names:
            task(name, config.data_dir, seeds)  # what is missing is said at once
        run(out, config.data_dir, names, seeds, untuned_report.SETTINGS)
        page = untuned_report.page(run_log.events(out)[0])
        out.with_suffix(".md").write_text(page, encoding="utf-8")
    return 0
