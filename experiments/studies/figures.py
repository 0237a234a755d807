"""The figures of the page of results, from runs on small problems.

The norm of ∇F_λ over the steps, where F_λ is exact; and on handwritten digits with a
long tail the accuracy over γ, over momentum and over λ by the time at which λ begins,
the mean weight of each class over the epochs, and what enters the last layer. Every run
is logged as one JSON line. One figure is of `reproduce.jsonl` in the same folder.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import absgd_jax
from experiments import commands, configs, methods
from experiments.data.task import load_task
from experiments.report import formatting, tsne
from experiments.results import run_dir, run_log
from experiments.studies import figures_report as report
from experiments.studies import grid, reproduce, results_page, toy
from experiments.studies.digits import LONG_TAIL
from experiments.studies.figures_report import GAMMAS, LAMS, MOMENTA, NORM_GAMMAS
from experiments.train import sharding, vmapped
from experiments.train.evaluation import outputs_of

EXAMPLES, BATCH, HIDDEN, STEPS = 200, 8, 8, 50_000
WINDOWS = 40  # of steps, whose ends are spaced evenly on a logarithmic axis


def problem() -> tuple[jax.Array, jax.Array]:
    """Inputs `[n, 3]`, a one for the bias among them, and labels of ±1.

    Two classes that a curve separates, a tenth of the labels flipped.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 2))
    y = np.where(x[:, 0] > np.sin(2.0 * x[:, 1]), 1.0, -1.0)
    y = np.where(rng.random(EXAMPLES) < 0.1, -y, y)
    inputs = np.concatenate([x, np.ones((EXAMPLES, 1))], axis=1)
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(y, jnp.float32)


def losses_of(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Logistic losses of a network with one hidden layer of tanh, `[batch]`."""
    return jax.nn.softplus(-y * (jnp.tanh(x @ params["in"]) @ params["out"]))


def initial(key: jax.Array) -> dict[str, jax.Array]:
    """The network's initial parameters."""
    of_in, of_out = jax.random.split(key)
    return {
        "in": jax.random.normal(of_in, (3, HIDDEN)),
        "out": 0.5 * jax.random.normal(of_out, (HIDDEN,)),
    }


def gradient_norms(lam: float, gamma: float | None, seeds: Sequence[int]) -> np.ndarray:
    """‖∇F_λ(w)‖² of all examples before each step of ABSGD without momentum.

    γ is None for 1/√t, as η is in proportion to 1/√t in any case. The seeds are of the
    initial parameters and the batches. Float `[seeds, STEPS]`.
    """
    x, y = problem()
    decreasing = lambda count: 1.0 / jnp.sqrt(count + 1.0)
    rate = lambda count: 0.5 * decreasing(count)
    of_step = decreasing if gamma is None else gamma
    tx = absgd_jax.absgd(rate, lam, of_step, momentum=None)
    exact = jax.grad(lambda params: absgd_jax.tilted_loss(losses_of(params, x, y), lam))

    def one(seed: jax.Array) -> jax.Array:
        key = jax.random.key(seed)
        params = initial(key)

        def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            norm = optax.tree.norm(exact(params), squared=True)
            chosen = jax.random.randint(key, (BATCH,), 0, EXAMPLES)
            losses, pullback = jax.vjp(
                lambda params: losses_of(params, x[chosen], y[chosen]), params
            )
            updates, state = tx.update(pullback, state, params, losses=losses)
            return (optax.apply_updates(params, updates), state), norm

        keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[1]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.array(seeds)))


def _norms(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A record for each λ, γ and seed: the mean of ‖∇F_λ‖² in each window."""
    ends = np.unique(np.geomspace(1, STEPS, WINDOWS).round().astype(int))
    lines = []
    for lam in LAMS:
        for gamma in NORM_GAMMAS:
            norms = gradient_norms(lam, gamma, seeds)
            parts = np.split(norms, ends[:-1], axis=1)
            means = np.stack([part.mean(1) for part in parts], axis=1)
            lines += [
                {"figure": "norms", "lam": lam, "gamma": gamma, "seed": seed}
                | {"steps": ends, "values": [float(f"{v:.4g}") for v in mean]}
                for seed, mean in zip(seeds, means, strict=True)
            ]
    return lines


class _Annealed(vmapped.VmappedRuns):
    """Vmapped runs whose 1/λ rises evenly from 0 until the other runs switch."""

    def _hyperparams(self, batch: int) -> methods.StepHyperparams:
        hyperparams = super()._hyperparams(batch)
        step = self._epoch * self.per_epoch + batch
        end = self.runs[0].epoch_at(LONG_TAIL.run.method.start_at) * self.per_epoch
        # From ∞ an annealed λ is in proportion to the last.
        factor = np.asarray(absgd_jax.anneal(1.0, 0, end)(step))
        return hyperparams._replace(lam=hyperparams.lam * factor)


def _groups(
    figure: str,
) -> list[list[tuple[Mapping[str, Any], Mapping[str, Any]]]]:
    """The runs of a figure on digits, in groups that share a program.

    Each run is given by what its record says of it and by its changes.
    """
    sgd, absgd = {"method.lam": math.inf}, {"method.lam": report.DIGITS_LAM}
    automatic = sgd | {"method.rho": 0.4, "method.gamma": 0.1, "method.max_weight": 2.0}
    strategies = report.STRATEGIES.items()
    match figure:
        case "gamma":
            over = [
                ({"gamma": gamma}, absgd | {"method.gamma": gamma}) for gamma in GAMMAS
            ]
            return [[({"gamma": None}, sgd), *over]]
        case "momentum":
            # Steps as long at every β; β is compiled in, so each has a program.
            rate = LONG_TAIL.run.optimizer.learning_rate
            of_beta = lambda beta: {
                "optimizer.momentum": beta,
                "optimizer.learning_rate": rate * (1.0 - beta) / 0.1,
            }
            facts = lambda beta, lam: {"momentum": beta, "lam": lam["method.lam"]}
            return [
                [(facts(beta, lam), of_beta(beta) | lam) for lam in (sgd, absgd)]
                for beta in MOMENTA
            ]
        case "tsne":
            return [
                [({"strategy": name}, absgd | {"method.start_at": start})]
                for name, start in strategies
                if name != report.ANNEALED
            ]
        case "strategies":
            facts = lambda name, lam: {"strategy": name, "lam": lam}
            changes = lambda lam, start: {"method.lam": lam, "method.start_at": start}
            lams = report.STRATEGY_LAMS
            radius = automatic | {"method.start_at": 0.0}
            return [
                *(
                    [(facts(name, lam), changes(lam, start)) for lam in lams]
                    for name, start in strategies
                ),
                [(facts(report.SGD, math.inf), sgd)],
                [(facts(report.RADIUS, math.inf), radius)],
            ]
        case _:  # weights
            fixed = f"λ = {formatting.number(report.DIGITS_LAM)}"
            return [[({"rule": fixed}, absgd)], [({"rule": "automatic λ"}, automatic)]]


def _digits(figure: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Trains the runs of a figure on digits, vmapped; a record for each and seed."""
    lines = []
    last = {"eval_every": LONG_TAIL.run.epochs, "data.augment_on": "device"}
    tasks = {seed: load_task(LONG_TAIL.run.data, seed) for seed in seeds}
    layout, short = sharding.layout(1), lambda value: float(f"{value:.4g}")
    for group in _groups(figure):
        jobs = [
            (facts, configs.replace(LONG_TAIL.run, {**last, **changes, "seed": seed}))
            for facts, changes in group
            for seed in seeds
        ]
        annealed = any(facts.get("strategy") == report.ANNEALED for facts, _ in group)
        build = _Annealed if annealed else vmapped.VmappedRuns
        of_jobs = [tasks[run.seed] for _, run in jobs]
        together = build([run for _, run in jobs], of_jobs, layout)
        events, failures = grid.fit_vmapped(together)
        for index, (facts, run) in enumerate(jobs):
            own = events[index]
            line = {"figure": figure, **facts, "seed": run.seed, "test": None}
            lines.append(line)
            if failures[index] is not None:
                continue
            line["test"] = round(own[-1]["test"]["accuracy"], 5)
            if figure == "weights":
                of_epochs = (event["weight_by_class"] for event in own)
                line["weights"] = [[*map(short, weights)] for weights in of_epochs]
            elif figure == "strategies":
                line["lams"] = [short(event["lam"]) for event in own]
            elif figure == "tsne":
                test = tasks[run.seed].test
                state = jax.tree.map(operator.itemgetter(index), together.state)
                features = outputs_of("features", state, test, run, layout)
                line["labels"] = test.labels
                line["points"] = np.round(np.float64(tsne.embed(features)), 1)
    return lines


def main(config: commands.Figures) -> int:
    """Trains the runs of figures that are not recorded, and draws all; returns 0."""
    with run_dir.lock(config.records.parent, config.records.name):
        for name in ("norms", "gamma", "momentum", "weights", "strategies", "tsne"):
            found, _ = run_log.events(config.records, *report.FIELDS)
            if name not in {r["figure"] for r in found}:
                seeds = range(1 if name == "tsne" else config.seeds)
                lines = _norms(seeds) if name == "norms" else _digits(name, seeds)
                run_log.append(config.records, lines)
                print(name, flush=True)
    path = config.records.with_name(results_page.REPRODUCE)
    campaign, _ = run_log.events(path, *reproduce.FIELDS)
    records = [*run_log.events(config.records)[0], *report.courses(campaign)]
    config.out.mkdir(parents=True, exist_ok=True)
    shown = commands.Toy()
    toy.figure(*toy.take(shown.seed, shown.lam), config.out / toy.FIGURE)
    for path in report.draw(records, config.out):
        print(path)
    return 0
