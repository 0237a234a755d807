"""The recipes: every variant is compared with the SGD of its own data and seed."""

import dataclasses
import math

import pytest

from experiments import commands
from experiments.results import aggregate
from experiments.studies import digits, grid, recipes


@pytest.fixture
def two_variants(monkeypatch):
    variants = {"long-tail": ((0.5, 0.9, 0.5),), "label-noise": ((0.0, 0.5, -2.0),)}
    monkeypatch.setattr(recipes, "VARIANTS", variants)


@pytest.mark.usefixtures("two_variants")
def test_recipes_are_trained_recorded_and_compared(tmp_path, capsys):
    config = commands.Recipes(out=tmp_path, seeds=1, epochs=1)
    assert recipes.main(config) == 0
    folder, by_name = tmp_path / grid.TRAININGS, {}
    studies = digits.studies(config.epochs)
    for name in [name for s in studies for name in (s.name, *recipes.runs(s))]:
        found = aggregate.read(folder / f"{name.replace(' ', '_')}-seed0")
        by_name[name] = found.epochs[-1]["test"]["accuracy"]
    table = (tmp_path / grid.TABLE).read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert "over 1 seed." in table
    for name, title in (("long-tail", "Long-tailed"), ("label-noise", "Balanced")):
        (variant,) = (n for n in by_name if n.startswith(f"{name} "))
        (row,) = (line for line in table.splitlines() if f"| {title}" in line)
        points = 100 * (by_name[variant] - by_name[name])
        assert f"{points:+.1f}".replace("-", "−") in row


def test_every_recipe_differs_from_its_study_in_attention_alone():
    found = []
    for study in digits.studies():
        for run in recipes.runs(study).values():
            kept = {"lam": study.run.method.lam, "start_at": study.run.method.start_at}
            method = dataclasses.replace(
                run.method, gamma=study.run.method.gamma, **kept
            )
            assert dataclasses.replace(run, method=method) == study.run
            assert not math.isinf(run.method.lam)
            found.append(run)
    assert len(set(found)) == len(found)
