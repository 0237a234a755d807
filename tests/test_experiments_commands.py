"""What can be done with a run after its training, on a tiny one of the digits."""

import json
import re
import shutil

import pytest

from experiments.cli import main
from experiments.results import run_dir, run_log
from tests.programs import epochs

TINY = (
    "--model.widths", "4", "8", "--data.examples-per-class", "110",
    "--batch-size", "32",
    "--data.noise-rate", "0.1", "--epochs", "2", "--no-tensorboard",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "digits_label_noise", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy, which a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def _config(out):
    return json.loads((out / run_dir.CONFIG).read_text())


# Going on.


def test_a_finished_run_is_trained_for_more_epochs(run, capsys):
    before = epochs(run)
    assert main(["resume", str(run)]) == 0
    assert "is finished: 2 epochs" in capsys.readouterr().err
    assert main(["resume", str(run), "--epochs", "10"]) == 0
    said = capsys.readouterr().err
    # λ from a fifth of the epochs on: the third of ten is the first of them.
    assert "Now of 10 epochs, not 2." in said
    assert "epoch 3 trains with a learning rate of 0.1 and λ = -1" in said
    assert "ABSGD weights examples from epoch 3 on" in said
    config = _config(run)
    assert config["run"]["epochs"] == 10
    assert config["extended"] == [2]
    assert epochs(run)[:2] == before
    assert [event["epoch"] for event in epochs(run)] == list(range(1, 11))
    accuracies = [event["test"]["accuracy"] for event in epochs(run)]
    assert accuracies[-1] > 0.15 > accuracies[1]  # a tenth is chance
    # What is there is one run of ten epochs, for every other command.
    assert main(["evaluate", str(run)]) == 0
    arguments = ["train", "digits_label_noise", *TINY, "--out", str(run)]
    assert main(arguments) == 2
    assert "epochs: 10 there, 2 here" in capsys.readouterr().err
    assert main([*arguments, "--epochs", "10"]) == 0


def test_a_run_that_was_stopped_while_it_had_more_epochs_goes_on(run, capsys):
    config = _config(run)
    config["run"]["epochs"], config["extended"] = 3, [2]
    (run / run_dir.CONFIG).write_text(json.dumps(config))
    assert main(["evaluate", str(run)]) == 0  # of the checkpoint of two epochs
    assert main(["resume", str(run)]) == 0
    assert len(epochs(run)) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--epochs", "1"], "is trained for 2 epochs already. --epochs counts"),
        (["--devices", "99"], "got 99"),
    ],
)
def test_what_cannot_be_resumed_is_left_as_it_is(run, more, said, capsys):
    before = (run / run_dir.CONFIG).read_text()
    assert main(["resume", str(run), *more]) == 2
    assert said in capsys.readouterr().err
    assert (run / run_dir.CONFIG).read_text() == before


def test_a_run_without_checkpoints_is_not_begun_anew(run, capsys):
    shutil.rmtree(run / run_dir.CHECKPOINTS)
    assert main(["resume", str(run), "--epochs", "3"]) == 2
    said = capsys.readouterr().err
    assert "has no checkpoint to go on from" in said
    assert f"train --config {run / run_dir.CONFIG}" in said
    assert len(epochs(run)) == 2


# As another run is configured.


def test_a_run_is_trained_as_another_one_is_configured(trained, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    config = ["train", "--config", str(trained / run_dir.CONFIG)]
    assert main([*config, "--out", str(again)]) == 0
    assert epochs(again) == epochs(trained)
    changed = ["--method.name", "sgd", "--epochs", "1", "--out", str(other)]
    assert main([*config, *changed]) == 0
    found, expected = run_dir.load(other), run_dir.load(trained)
    assert found.preset == expected.preset
    assert found.run.model == expected.run.model
    assert not found.session.tensorboard
    assert (found.run.method.name, found.run.epochs) == ("sgd", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config"], "--config takes the config.json of a run"),
        (["--config", "no/such.json"], "no/such.json cannot be read: No such file"),
        (["--config", "pyproject.toml"], "is not the config of a run"),
        (["digits_long_tail", "--config", "a.json"], "a preset or --config, not both"),
    ],
)
def test_what_is_no_configuration_is_refused(arguments, said, capsys):
    assert main(["train", *arguments]) == 2
    assert said in capsys.readouterr().err


# What is happening.


def test_a_run_says_what_it_does(trained, tmp_path, capsys):
    out = tmp_path / "run"
    config = ["train", "--config", str(trained), "--out", str(out)]
    assert main([*config, "--eval-every", "2"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "Starting JAX.",
        "Reading digits.",
        "Compiling the step; the first update comes after it.",
    ]
    last = epochs(out)[-1]
    percent = {name: f"{last[name]['accuracy']:.1%}" for name in ("validation", "test")}
    first, second = lines[3:5]
    assert re.fullmatch(
        r"epoch 1/2  loss \d\.\d{3}  val –  test –  λ -1  effective sample \d+%  "
        r"\d+\.\d s  ETA \d\d:\d\d",
        first,
    )
    assert second.startswith(
        f"epoch 2/2  loss {last['loss']:.3f}  val {percent['validation']}  "
        f"test {percent['test']}  λ -1  effective sample "
    )
    assert second.endswith("ETA 00:00")
    assert lines[5].startswith(
        f"Finished: test accuracy {percent['test']}, validation accuracy "
        f"{percent['validation']}. In {out}"
    )
    assert len(lines) == 6


def test_versions_are_those_that_a_run_notes(trained, capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    noted = _config(trained)["versions"]
    assert noted == run_log.versions()
    for name in ("jax", "flax", "optax", "python"):
        assert f"{name} {noted[name]}" in said
