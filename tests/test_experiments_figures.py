"""The figures of the page of results: exact norms, runs on digits, and the drawings."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import configs
from experiments.results import run_log
from experiments.studies import figures, figures_report, results_page, toy
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


@pytest.fixture
def four_epochs(monkeypatch):
    """Runs on digits of four epochs and few test images."""
    changes = {"epochs": 4, "data.test_per_class": 15}
    short = configs.replace(figures.LONG_TAIL.run, changes)
    study = dataclasses.replace(figures.LONG_TAIL, run=short)
    for module in (figures, figures_report):
        monkeypatch.setattr(module, "LONG_TAIL", study)
    return short


@pytest.mark.usefixtures("four_epochs")
def test_records_of_digits_have_weights_of_each_class():
    lines = figures._digits("weights", [0])
    assert [line["rule"] for line in lines] == ["λ = 0.5", "automatic λ"]
    for line in lines:
        weights = np.array(line["weights"], float)
        assert weights.shape == (4, 10)
        np.testing.assert_allclose(weights[0], 1.0, rtol=1e-5)  # before the switch
        assert np.nanstd(weights[-1]) > 1e-4


def test_strategies_set_lam_by_their_schedules(four_epochs, monkeypatch):
    monkeypatch.setattr(figures_report, "STRATEGY_LAMS", (0.5, 2.0))
    lines = figures._digits("strategies", [0])
    inverse = {
        (line["strategy"], line["lam"]): 1.0 / np.array(line["lams"]) for line in lines
    }
    switch = four_epochs.epoch_at(four_epochs.method.start_at)
    steps = -(-sum(figures_report._counts()) // four_epochs.batch_size)
    epochs = np.arange(1, 5)
    # λ is that of an epoch's last step, before which one less than all are done.
    share = np.minimum((epochs * steps - 1) / (switch * steps), 1.0)
    for lam in (0.5, 2.0):
        for name, expected in {
            "from the first step": np.ones(4),
            "two stages": epochs > switch,
            "annealed": share,
        }.items():
            assert inverse[name, lam] == pytest.approx(expected / lam, rel=1e-3), name
    assert not inverse["SGD", math.inf].any()
    radius = inverse["radius from the first step", math.inf]
    assert np.isfinite(radius).all()
    assert (radius > 0.0).all()
    assert len(set(radius)) == 4  # it follows the losses


@pytest.mark.usefixtures("four_epochs")
def test_embedded_features_of_a_class_are_near_one_another():
    lines = figures._digits("tsne", [0])
    assert [line["strategy"] for line in lines] == ["from the first step", "two stages"]
    for line in lines:
        points, labels = np.array(line["points"]), np.array(line["labels"])
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        np.fill_diagonal(distances, np.inf)
        assert np.bincount(labels).tolist() == [15] * 10
        assert np.mean(labels[distances.argmin(1)] == labels) > 0.5
    assert lines[0]["points"].tolist() != lines[1]["points"].tolist()


@pytest.fixture
def panels():
    """Two empty panels."""
    from matplotlib import figure

    return figure.Figure().subplots(1, 2)


def test_the_distributions_are_the_published_ones(panels):
    figures_report._distributions([], *panels)
    totals = [{sum(line.get_ydata()) for line in panel.lines} for panel in panels]
    assert totals[0] == {20431, 12406, 27500, 25250}
    assert totals[1] == {19573, 10847, 27500, 25250}


def test_the_legend_names_the_class_of_each_line(panels):
    found = run_log.events(ROOT / "results" / "figures.jsonl")[0]
    own = [r for r in found if r["figure"] == "weights"]
    figures_report._weights(own, *panels)
    rule = own[-1]["rule"]
    last = np.mean([r["weights"][-1] for r in own if r["rule"] == rule], axis=0)
    shown = {line.get_label(): line.get_ydata()[-1] for line in panels[-1].lines}
    assert shown["9  (2)"] == pytest.approx(last[9])
    assert shown["0  (104)"] == pytest.approx(last[0])
    texts = [text.get_text() for text in panels[-1].get_legend().texts]
    assert sorted(shown) == sorted(texts)


def _cells(records):
    """The rows of a table of differences, by their first cell."""
    lines = figures_report.differences(records).splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {first: rest for first, *rest in rows}


def test_differences_are_paired_by_seed_and_leave_out_what_diverged(monkeypatch):
    monkeypatch.setattr(figures_report, "GAMMAS", (0.1, 1.0))
    monkeypatch.setattr(figures_report, "MOMENTA", (0.0, 0.9))
    monkeypatch.setattr(figures_report, "STRATEGY_LAMS", (0.5, 2.0))

    def of(figure, tests, **facts):
        return [
            {"figure": figure, **facts, "seed": seed, "test": test}
            for seed, test in enumerate(tests)
        ]

    gamma = [
        *of("gamma", (0.5, 0.7, 0.9), gamma=None),
        *of("gamma", (0.55, 0.73, None), gamma=0.1),
        *reversed(of("gamma", (0.4, 0.6, 0.8), gamma=1.0)),
    ]
    table = _cells(gamma)
    assert table["γ"] == ["0.1", "1"]
    assert table["ABSGD"] == ["+4.0 ± 1.0", "−10.0 ± 0.0"]
    lams = ("inf", figures_report.DIGITS_LAM)  # as they are recorded
    momentum = [
        *of("momentum", (0.5, 0.6), momentum=0.0, lam=lams[0]),
        *of("momentum", (0.6, 0.7), momentum=0.9, lam=lams[0]),
        *of("momentum", (0.52, 0.62), momentum=0.0, lam=lams[1]),
        *of("momentum", (0.6, 0.74), momentum=0.9, lam=lams[1]),
    ]
    assert _cells(momentum)["ABSGD"] == ["+2.0 ± 0.0", "+2.0 ± 2.0"]
    first, *later = figures_report.STRATEGIES
    strategies = [
        *of("strategies", (0.5, 0.7), strategy="SGD", lam="inf"),
        *of("strategies", (0.51, 0.69), strategy=figures_report.RADIUS, lam="inf"),
        *of("strategies", (0.4, 0.6), strategy=first, lam=0.5),
        *of("strategies", (0.5, 0.72), strategy=first, lam=2.0),
    ]
    table = _cells(strategies)
    assert table[first] == ["−10.0 ± 0.0", "+1.0 ± 1.0", "–"]
    assert table[figures_report.RADIUS] == ["–", "–", "+0.0 ± 1.0"]
    assert all(table[name] == ["–"] * 3 for name in later)
    assert not figures_report.differences(of("weights", (0.5,), rule="λ = 0.5"))


def test_every_figure_is_drawn_from_the_records(tmp_path):
    own, campaign = (
        run_log.events(ROOT / "results" / name)[0]
        for name in (results_page.FIGURES, results_page.REPRODUCE)
    )
    found = [*own, *figures_report.courses(campaign)]
    paths = figures_report.draw(found, tmp_path)
    names = {path.name for path in (ROOT / "docs" / "figures").glob("*.png")}
    assert {path.name for path in paths} | {toy.FIGURE} == names
    lines = figures_report.section(found)
    assert all(f"({figures_report.FOLDER}/{name})" in lines for name in names)
    for name in ("gamma", "momentum", "strategies"):
        under = lines.partition(f"/{name}.png)\n\n")[2]
        of_figure = figures_report.of_figure(found, name)
        assert under.startswith(figures_report.differences(of_figure)), name
    seeds = {r["seed"] for r in found}
    assert len(seeds) == 10
    assert "10 seeds" in lines
    (first, *_) = figures_report.courses(campaign)
    more = [first | {"seed": seed} for seed in range(11)]
    lines = figures_report.section([*found, *more])
    assert "(11 seeds a method)" in lines  # and of the other figures as many as before
    assert lines.count("11 seeds") == 1
    assert all(math.isfinite(v) for r in found for v in r.get("values", ()))
