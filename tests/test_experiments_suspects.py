"""The list of training examples whose labels are most likely wrong."""

import csv
import math

import numpy as np
import pytest

from experiments import cli
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.report import suspects
from experiments.results import run_dir

TRAIN = ("train", "digits_label_noise", "--epochs", "8", "--no-tensorboard")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Digits with 40% wrong labels, under ABSGD with λ = -1."""
    out = tmp_path_factory.mktemp("suspects") / "run"
    assert cli.main([*TRAIN, "--out", str(out)]) == 0
    assert cli.main(["suspects", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def task(trained):
    return load_task(run_dir.load(trained).run.data, 0)


@pytest.fixture(scope="module")
def rows(trained):
    with (trained / suspects.LIST).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_first_hundred_are_mislabelled(task, rows):
    """40% are; a list in random order has 48 of 100 or more in one case of fifteen."""
    wrong = dict(zip(task.rows.tolist(), task.mislabelled.tolist(), strict=True))
    flags = np.array([wrong[int(row["index"])] for row in rows])
    assert 0.35 < flags.mean() < 0.45
    assert flags[:100].mean() >= 0.9
    assert flags[: flags.sum()].mean() >= 0.75
    assert flags[-100:].mean() <= 0.05


def test_the_index_is_that_of_the_data_set(task, rows):
    np.testing.assert_array_equal(digits().inputs[task.rows], task.train.inputs)
    given = dict(zip(task.rows.tolist(), task.train.labels.tolist(), strict=True))
    assert {int(row["index"]): int(row["given_label"]) for row in rows} == given
    truth = digits().labels[task.rows]
    np.testing.assert_array_equal(truth != task.train.labels, task.mislabelled)


def test_the_columns_agree_and_are_in_cleanlabs_form(trained, task, rows):
    assert list(rows[0])[1:5] == [
        "is_label_issue", "label_quality", "given_label", "predicted_label",
    ]  # fmt: skip
    quality, loss, weight = (
        np.array([float(row[name]) for row in rows])
        for name in ("label_quality", "loss", "weight")
    )
    assert (np.diff(quality) >= 0).all()
    np.testing.assert_allclose(quality, np.exp(-loss), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(weight.mean(), 1.0, rtol=1e-4)
    expected = np.exp(loss / -1.0)  # λ
    np.testing.assert_allclose(weight, expected / expected.mean(), rtol=1e-4)
    with np.load(trained / suspects.ARRAYS) as arrays:
        labels, probabilities = arrays["labels"], arrays["pred_probs"]
    np.testing.assert_array_equal(labels, task.train.labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    place = {row: at for at, row in enumerate(task.rows.tolist())}
    for row in rows[:5] + rows[-5:]:
        own = probabilities[place[int(row["index"])]]
        given, predicted = int(row["given_label"]), int(row["predicted_label"])
        assert own.argmax() == predicted
        np.testing.assert_allclose(own[given], float(row["label_quality"]), rtol=1e-4)
        assert row["is_label_issue"] == str(given != predicted)


def test_the_first_rows_are_printed_and_files_go_where_they_are_to(
    trained, tmp_path, capsys
):
    out = tmp_path / "lists"
    assert cli.main(["suspects", str(trained), "--out", str(out), "--show", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in printed) == 1 + 3
    for name in (suspects.LIST, suspects.ARRAYS):
        assert (out / name).is_file()
    assert (out / suspects.LIST).read_bytes() == (trained / suspects.LIST).read_bytes()
    (tmp_path / "file").write_text("")
    there = str(tmp_path / "file")
    assert cli.main(["suspects", str(trained), "--out", there]) == 1
    assert "give --out a directory" in capsys.readouterr().err


def test_without_attention_all_weigh_one():
    logits = np.array([[2.0, 0.0], [0.0, 900.0], [0.0, 1.0]])
    found = suspects.suspicion(logits, np.array([0, 0, 0]), math.inf)
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert found.order.tolist() == [1, 2, 0]
    assert found.losses[1] == 900.0
    away = suspects.suspicion(logits, np.array([0, 0, 0]), -0.5)
    assert np.argsort(away.weights).tolist() == [1, 2, 0]
    assert np.isfinite(away.weights).all()
