"""The list of training examples whose labels are most likely wrong."""

import math
import shutil

import numpy as np
import pytest

from experiments import cli
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.report import suspects
from experiments.results import aggregate, example_losses, run_dir
from tests import programs

EPOCHS = 8
TRAIN = (
    "train", "digits_label_noise", "--epochs", str(EPOCHS), "--no-tensorboard",
    "--record-losses",
)  # fmt: skip


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
    return programs.rows((trained / suspects.LIST).read_text("utf-8"))


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
        np.testing.assert_array_equal(arrays["index"], task.rows)
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
    trained, tmp_path, shell
):
    out = tmp_path / "lists"
    printed = shell.printed("suspects", trained, "--out", out, "--show", "3")
    shown = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(shown) == 2 * (1 + 3)
    for name in (suspects.LIST, suspects.ARRAYS):
        assert (out / name).is_file()
    assert (out / suspects.LIST).read_bytes() == (trained / suspects.LIST).read_bytes()
    (tmp_path / "file").write_text("")
    there = ("suspects", trained, "--out", tmp_path / "file")
    shell.refused(1, "give --out a directory", *there)


def test_losses_and_weights_over_the_epochs(trained, task, rows):
    with np.load(trained / suspects.ARRAYS) as arrays:
        epochs, losses, weights = (
            arrays[name] for name in ("epochs", "losses", "weights")
        )
    assert epochs.tolist() == list(range(1, EPOCHS + 1))
    assert losses.shape == weights.shape == (EPOCHS, len(task.rows))
    lams = [float(event["lam"]) for event in aggregate.read(trained).epochs]
    assert lams[0] == math.inf
    assert lams[-1] == -1.0
    for lam, loss, weight in zip(lams, losses, weights, strict=True):
        expected = np.exp(loss.astype(float) / lam)
        np.testing.assert_allclose(weight, expected / expected.mean(), rtol=1e-4)
    # After the last epoch they are those of the list, to the digits of float16.
    place = {row: at for at, row in enumerate(task.rows.tolist())}
    at = [place[int(row["index"])] for row in rows]
    listed = [float(row["loss"]) for row in rows]
    np.testing.assert_allclose(losses[-1][at], listed, rtol=1e-3, atol=1e-6)
    # The network learns the right labels first: losses of wrong ones go up.
    assert losses[-1][task.mislabelled].mean() > 2 * losses[0][task.mislabelled].mean()
    long = programs.rows((trained / suspects.EPOCHS).read_text("utf-8"))
    names = [row["index"] for row in rows[:10]]
    assert [(row["index"], row["epoch"]) for row in long] == [
        (name, str(epoch)) for name in names for epoch in epochs
    ]
    for row in long:
        example = place[int(row["index"])]
        loss = losses[int(row["epoch"]) - 1, example]
        np.testing.assert_allclose(float(row["loss"]), loss, rtol=1e-4)


def test_what_was_recorded_goes_on_with_the_run(trained, tmp_path, shell):
    out = shutil.copytree(trained, tmp_path / "run")
    shell.printed("resume", out, "--epochs", EPOCHS + 1)
    (out / example_losses.FOLDER / "00003.npy").write_bytes(b"damaged")
    stale = ("report", out, "--out", tmp_path / "report", "--tables")
    assert "the training is at step" in shell.printed(*stale)
    assert f" epoch {EPOCHS + 1} " in shell.printed("suspects", out)
    with np.load(out / suspects.ARRAYS) as arrays:
        assert arrays["epochs"].tolist() == [1, 2, *range(4, EPOCHS + 2)]


def test_a_report_shows_the_head_of_the_list(trained, rows, tmp_path, shell):
    printed = shell.printed("report", trained, "--out", tmp_path, "--tables")
    assert "## Labels that are most likely wrong" in printed
    assert "the first 10 of 1,097 in suspects.csv" in printed
    assert "the training is at step" not in printed
    (path,) = (tmp_path / "tables").glob("*-most-likely-wrong.csv")
    shown = programs.rows(path.read_text("utf-8"))
    assert [(row["index"], row["label"], row["prediction"]) for row in shown] == [
        (row["index"], row["given_label"], row["predicted_label"]) for row in rows[:10]
    ]


def test_a_run_without_recorded_losses_has_a_list_all_the_same(trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(out / example_losses.FOLDER)
    for path in out.glob("suspects*"):
        path.unlink()
    assert cli.main(["report", str(out)]) == 0
    assert "most likely wrong" not in (out / "report.md").read_text(encoding="utf-8")
    assert cli.main(["suspects", str(out)]) == 0
    assert not (out / suspects.EPOCHS).exists()
    listed = (out / suspects.LIST).read_bytes()
    assert listed == (trained / suspects.LIST).read_bytes()
    with np.load(out / suspects.ARRAYS) as arrays:
        assert "losses" not in arrays


def test_weights_of_a_radius_are_those_of_its_training(tmp_path, shell):
    """One until it is on, in the second half; then at most 2, though it is large."""
    small = ("--model.widths", "2", "--data.examples-per-class", "80", "--epochs", "4")
    small += ("--batch-size", "32")
    radius = ("--method.rho", "1.6", "--method.lam=inf", "--method.start-at", "0.5")
    words = ("train", "digits_label_noise", *TRAIN[4:], *small, *radius)
    shell.printed(*words, "--out", tmp_path)
    shell.printed("suspects", tmp_path)
    lams = [float(event["lam"]) for event in aggregate.read(tmp_path).epochs]
    assert lams[:2] == [math.inf, math.inf]
    assert all(map(math.isfinite, lams[2:]))
    with np.load(tmp_path / suspects.ARRAYS) as arrays:
        weights = arrays["weights"]
    assert np.unique(weights[:2]).tolist() == [1.0]
    np.testing.assert_allclose(weights[2:].max(axis=1), 2.0, rtol=1e-5)
    listed = programs.rows((tmp_path / suspects.LIST).read_text("utf-8"))
    assert max(float(row["weight"]) for row in listed) == pytest.approx(2.0, rel=1e-5)


def test_losses_are_finite_and_those_of_cross_entropy():
    logits = np.array([[2.0, 0.0], [0.0, 9e4], [0.0, 1.0]])
    losses = example_losses.cross_entropy(logits, np.array([0, 0, 1]))
    near = math.log1p(math.exp(-2)), 9e4, math.log1p(math.exp(-1))
    np.testing.assert_allclose(losses, near)


def test_a_loss_beyond_float16_is_its_largest_number(tmp_path):
    example_losses.write(tmp_path, 1, np.array([9e4, 1.0]))
    (kept,) = example_losses.read(tmp_path, 2).values()
    assert kept.tolist() == [65504.0, 1.0]
    assert example_losses.read(tmp_path, 3) == {}


def test_without_attention_all_weigh_one():
    logits = np.array([[2.0, 0.0], [0.0, 900.0], [0.0, 1.0]])
    found = suspects.suspicion(logits, np.array([0, 0, 0]), math.inf)
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert found.order.tolist() == [1, 2, 0]
    assert found.losses[1] == 900.0
    away = suspects.suspicion(logits, np.array([0, 0, 0]), -0.5)
    assert np.argsort(away.weights).tolist() == [1, 2, 0]
    assert np.isfinite(away.weights).all()


def test_weights_keep_to_the_bound_of_the_training():
    logits = np.array([[2.0, 0.0], [0.0, 9.0], [0.0, 1.0], [1.0, 0.0]])
    found = suspects.suspicion(logits, np.array([0, 0, 0, 0]), 0.5, 2.0)
    np.testing.assert_allclose(found.weights.max(), 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.weights.mean(), 1.0, rtol=1e-6)
