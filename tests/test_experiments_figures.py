"""The figures of the page of results: exact norms, runs on digits, and the drawings."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import configs
from experiments.results import run_log
from experiments.studies import figures, figures_report, toy
from tests.test_experiments_reproduce import ROOT


@pytest.mark.parametrize("lam", figures_report.LAMS)
def test_the_norm_is_that_of_the_exact_gradient(lam, monkeypatch):
    """In float64, by finite differences of λ log mean exp(L/λ)."""
    monkeypatch.setattr(figures, "STEPS", 2)
    (found,) = figures.gradient_norms(lam, 0.1, [3])
    x, y = (np.asarray(part, np.float64) for part in figures.problem())
    first = jax.device_get(figures.initial(jax.random.key(3)))
    flat = np.concatenate([np.ravel(first["in"]), first["out"]]).astype(np.float64)
    size = first["in"].size

    def objective(w):
        hidden = np.tanh(x @ w[:size].reshape(first["in"].shape))
        losses = np.logaddexp(0.0, -y * (hidden @ w[size:]))
        return lam * np.log(np.mean(np.exp(losses / lam)))

    step = 1e-6 * np.eye(len(flat))
    slopes = [(objective(flat + d) - objective(flat - d)) / 2e-6 for d in step]
    assert found[0] == pytest.approx(np.sum(np.square(slopes)), rel=1e-3)
    assert found[1] < found[0]


def test_records_of_digits_have_weights_of_each_class(monkeypatch):
    short = configs.replace(figures.LONG_TAIL.run, {"epochs": 4})
    study = dataclasses.replace(figures.LONG_TAIL, run=short)
    monkeypatch.setattr(figures, "LONG_TAIL", study)
    lines = figures._digits("weights", [0])
    assert [line["rule"] for line in lines] == ["λ = 0.5", "automatic λ"]
    for line in lines:
        weights = np.array(line["weights"], float)
        assert weights.shape == (4, 10)
        np.testing.assert_allclose(weights[0], 1.0, rtol=1e-5)  # before the switch
        assert np.nanstd(weights[-1]) > 1e-4


def test_every_figure_is_drawn_from_the_records(tmp_path):
    found = run_log.read(ROOT / "results" / "figures.jsonl")
    paths = figures_report.draw(found, tmp_path)
    names = {path.name for path in (ROOT / "docs" / "figures").glob("*.png")}
    assert {path.name for path in paths} | {toy.FIGURE} == names
    lines = "\n".join(figures_report.section(found))
    assert all(f"({figures_report.FOLDER}/{name})" in lines for name in names)
    seeds = {r["seed"] for r in found}
    assert len(seeds) == 10
    assert "10 seeds" in lines
    assert all(math.isfinite(v) for r in found for v in r.get("values", ()))
