"""The study of radii without tuning: its runs, its records and its page."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.results import run_log
from experiments.studies import untuned, untuned_report
from experiments.studies.untuned_report import DEFAULT, RATES, SGD, Setting

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["untuned", "untuned_head"])
def test_the_page_is_what_the_records_make(name):
    records = run_log.read(DOCS / f"{name}.jsonl")
    page = (DOCS / f"{name}.md").read_bytes()
    assert untuned_report.page(records).encode() == page


def test_infinite_lam_is_sgd(tmp_path):
    data = untuned.task("digits-tail", tmp_path, [3])
    jobs = [(0.01, s, 3) for s in (SGD, Setting(lam=0.5))]
    trained, _ = untuned.train(data, "from step 0", 1, jobs, [3], steps=20)

    x, y = (part[0] for part in data.train)
    params = untuned.initial_params(x.shape[-1], 10, 3)
    optimizer = optax.sgd(0.01, 0.9)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss_fn(params):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                untuned.logits(params, x), y
            )
            return jnp.mean(losses)

        updates, state = optimizer.update(jax.grad(loss_fn)(params), state)
        return optax.apply_updates(params, updates), state

    for batch in untuned.batches(len(x), 40, 3):
        params, state = step(params, state, x[batch], y[batch])
    sgd, attended = (jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in (0, 1))
    chex.assert_trees_all_close(sgd, params, rtol=1e-4, atol=1e-6)
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), attended, params)
    assert min(jax.tree.leaves(apart)) > 1e-4


@pytest.mark.parametrize("a", [0.1, 10.0])
def test_scent_is_the_published_normaliser(a):
    numbers = untuned.Hyperparams(0.0, 1.5, 1.0, a, 1e9, 0)
    init, weigh = untuned._attention(numbers, "scent-fixed", 1)
    state, rng, s = init(), np.random.default_rng(0), None
    for _ in range(20):
        losses = rng.exponential(2.0, 32)
        z = np.exp(losses / 1.5)
        s = z.mean() if s is None else s * (1 + a * z.mean()) / (1 + a * s)
        p, state = weigh(jnp.asarray(losses, jnp.float32), state)
        np.testing.assert_allclose(p, z / s, rtol=2e-5)


def test_the_records_are_resumed(tmp_path, capsys):
    out = tmp_path / "untuned.jsonl"
    more = lambda settings: untuned.run(
        out, tmp_path, ["digits-noise"], [0], settings, steps=20
    )
    more([SGD])
    before = out.read_text(encoding="utf-8")
    more([SGD, DEFAULT])
    lines = out.read_text(encoding="utf-8")
    assert lines.startswith(before)
    runs = {tuple(r[k] for k in untuned_report.RUNS) for r in run_log.read(out)}
    assert len(runs) == len(lines.splitlines()) == 2 * 2 * len(RATES)
    capsys.readouterr()
    more([SGD, DEFAULT])
    assert out.read_text(encoding="utf-8") == lines
    assert capsys.readouterr().out == ""
