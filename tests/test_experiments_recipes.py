"""The recipes: every variant is compared with the SGD of its own data and seed."""

import dataclasses
import math

import pytest

from experiments import commands
from experiments.results import aggregate
from experiments.studies import grid, recipes


@pytest.fixture
def two_variants(monkeypatch):
    variants = {"long-tail": ((0.5, 0.9, 0.5),), "label-noise": ((0.0, 0.5, -2.0),)}
    monkeypatch.setattr(commands.Recipes, "variants", variants)


@pytest.mark.usefixtures("two_variants")
def test_recipes_are_trained_recorded_and_compared(tmp_path, capsys):
    config = commands.Recipes(out=tmp_path, seeds=1, epochs=1)
    assert recipes.main(config) == 0
    folder, by_name = tmp_path / grid.TRAININGS, {}
    for name in config.runs():
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
    found = commands.Recipes().runs()
    for name, run in found.items():
        study = commands.Recipes.study(name).run
        # Evaluated after the last epoch alone, as the demo's trainings are.
        study = dataclasses.replace(study, eval_every=study.epochs)
        if math.isinf(run.method.lam):
            assert run == study
        else:
            kept = {"lam": study.method.lam, "start_at": study.method.start_at}
            method = dataclasses.replace(run.method, gamma=study.method.gamma, **kept)
            assert dataclasses.replace(run, method=method) == study
    assert len(set(found.values())) == len(found)
