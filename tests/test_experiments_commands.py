"""What can be done with a run after its training, on a tiny one of the digits."""

import contextlib
import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file

from experiments import cli, configs, presets, registry
from experiments.cli import main
from experiments.data import datasets, images, inputs, loader
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.data.types import DamagedData
from experiments.results import run_dir, run_log
from experiments.train import evaluation, export, progress, sharding, steps
from tests import trees
from tests.programs import epochs, rows
from tests.trees import write_csv

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


def test_a_finished_run_is_trained_for_more_epochs(run, shell):
    before = epochs(run)
    shell.refused(0, "is finished: 2 epochs", "resume", run)
    status, _, said = shell("resume", run, "--epochs", "10")
    assert status == 0
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
    shell.printed("evaluate", run)
    arguments = ("train", "digits_label_noise", *TINY, "--out", run)
    shell.refused(2, "epochs: 10 there, 2 here", *arguments)
    shell.printed(*arguments, "--epochs", "10")


def test_a_run_that_was_stopped_while_it_had_more_epochs_goes_on(run, shell):
    config = _config(run)
    config["run"]["epochs"], config["extended"] = 3, [2]
    (run / run_dir.CONFIG).write_text(json.dumps(config))
    shell.printed("evaluate", run)  # of the checkpoint of two epochs
    shell.printed("resume", run)
    assert len(epochs(run)) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--epochs", "1"], "is trained for 2 epochs already. --epochs counts"),
        (["--devices", "99"], "devices must be at most"),
    ],
)
def test_what_cannot_be_resumed_is_left_as_it_is(run, more, said, shell):
    before = (run / run_dir.CONFIG).read_text()
    shell.refused(2, said, "resume", run, *more)
    assert (run / run_dir.CONFIG).read_text() == before


def test_weights_that_begin_too_late_are_refused(run, shell, tmp_path):
    late = ("--method.start-at", "0.9", "--out", tmp_path / "out")
    command = ("train", "digits_label_noise", *TINY, *late)
    shell.refused(2, "start_at 0.9 would never come, as it is after the last", *command)
    assert not (tmp_path / "out").exists()
    config = _config(run)
    config["run"]["method"]["start_at"] = 0.9
    (run / run_dir.CONFIG).write_text(json.dumps(config))
    shell.refused(2, "of 3 epochs", "resume", run, "--epochs", "3")


def test_a_run_without_checkpoints_is_not_begun_anew(run, shell):
    shutil.rmtree(run / run_dir.CHECKPOINTS)
    status, _, said = shell("resume", run, "--epochs", "3")
    assert status == 2
    assert "has no checkpoint to go on from" in said
    assert f"train --config {run / run_dir.CONFIG}" in said
    assert len(epochs(run)) == 2


# As another run is configured.


def test_a_run_is_trained_as_another_one_is_configured(trained, shell, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    config = ("train", "--config", trained / run_dir.CONFIG)
    shell.printed(*config, "--out", again)
    assert epochs(again) == epochs(trained)
    shell.printed(*config, "--method.name", "sgd", "--epochs", "1", "--out", other)
    found, expected = run_dir.load(other), run_dir.load(trained)
    assert found.preset == expected.preset
    assert found.run.model == expected.run.model
    assert not found.session.tensorboard
    assert (found.run.method.name, found.run.epochs) == ("sgd", 1)


def test_flags_correct_what_a_command_refuses_of_another_run(run, shell, monkeypatch):
    config, found = _config(run), []
    config["run"]["seed"] = 3
    config["session"] |= {"record_losses": True, "devices": 2}
    (run / run_dir.CONFIG).write_text(json.dumps(config))
    monkeypatch.setattr(cli, "_run", lambda *words: found.append(words[-1]) or 0)
    compare, sweep = (
        (name, "--config", run / run_dir.CONFIG) for name in ("compare", "sweep")
    )
    shell.refused(2, "seed is of a single training, got 3: here it is 0", *compare)
    shell.printed(*compare, "--seed", "0")
    flags = ("--seed", "0", "--no-record-losses", "--devices", "1")
    for first, more, said in (
        (flags[:3], (), "on one device"),
        (flags[:2], flags[3:], "records no losses"),
        (flags[2:], (), "got 3"),
    ):
        shell.refused(2, said, *sweep, *first, *more)
    shell.printed(*sweep, *flags)
    of_compare, of_sweep = found
    assert [one.run.seed for one in found] == [0, 0]
    assert of_compare.run == of_sweep.run
    session = of_sweep.session
    assert (session.record_losses, session.devices) == (False, 1)
    assert of_compare.session.devices == 2


# What is happening.


def test_a_run_says_what_it_does(trained, tmp_path, shell):
    out = tmp_path / "run"
    config = ("train", "--config", trained, "--out", out)
    _, _, said = shell(*config, "--eval-every", "2")
    lines = said.splitlines()
    assert lines[:4] == [
        "Starting JAX.",
        "Reading digits.",
        "Building convnet.",
        "Compiling the step; the first update comes after it.",
    ]
    last = epochs(out)[-1]
    percent = {name: f"{last[name]['accuracy']:.1%}" for name in ("validation", "test")}
    first, second = lines[4:6]
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
    assert lines[6].startswith(
        f"Finished: test accuracy {percent['test']}, validation accuracy "
        f"{percent['validation']}. In {out}"
    )
    assert len(lines) == 7


def test_the_bar_has_only_what_a_method_has():
    shown = {"loss": 0.5123, "effective": 0.714, "largest": 2.0}
    absgd, sgd = (configs.Run(method=configs.Method(name)) for name in ("absgd", "sgd"))
    assert progress.bar(sgd, shown) == {"loss": "0.512"}
    assert progress.bar(absgd, shown) == {
        "loss": "0.512",
        "effective sample": "71%",
        "largest weight": "2",
    }


def test_the_time_left_leaves_out_the_epoch_that_compiles(monkeypatch):
    moments, lines = iter([0.0, 60.0, 70.0, 80.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(moments))
    tell = progress.EpochLines(configs.Run(epochs=400), lines.append)
    for epoch in (1, 2, 3):
        event = {"epoch": epoch, "loss": 0.5, "lam": 1.0, "effective_sample_size": 1.0}
        tell({"event": "epoch", "validation": None, "test": {"accuracy": 0.9}, **event})
    assert [line.split("  ")[-2:] for line in lines] == [
        ["60.0 s", "ETA 6:39:00"],
        ["10.0 s", "ETA 1:06:20"],
        ["10.0 s", "ETA 1:06:10"],
    ]
    assert "val –  test 90.0%" in lines[0]


def test_versions_are_those_that_a_run_notes(trained, shell):
    said = shell.printed("--version")
    noted = _config(trained)["versions"]
    assert noted == run_log.versions()
    for name in ("jax", "flax", "optax", "python"):
        assert f"{name} {noted[name]}" in said


# Predictions.


def _test_set(out):
    kept = run_dir.load(out)
    return load_task(kept.run.data, kept.run.seed).test


@pytest.fixture(scope="module")
def predicted(trained, tmp_path_factory):
    """The rows of the run's own test set."""
    out = tmp_path_factory.mktemp("predicted") / "new" / "test.csv"
    assert main(["predict", str(trained), "--out", str(out)]) == 0
    return rows(out.read_text())


def _probabilities(rows):
    return np.array([[float(row[str(label)]) for label in range(10)] for row in rows])


def test_predictions_of_the_test_set_have_its_accuracy(trained, predicted):
    labels = _test_set(trained).labels
    assert [int(row["label"]) for row in predicted] == labels.tolist()
    index = [int(row["index"]) for row in predicted]  # held out of the data set
    np.testing.assert_array_equal(digits().inputs[index], _test_set(trained).inputs)
    found = np.array([int(row["predicted"]) for row in predicted])
    accuracy = epochs(trained)[-1]["test"]["accuracy"]
    assert np.mean(found == labels) == pytest.approx(accuracy)
    probabilities = _probabilities(predicted)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), found)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)


@pytest.mark.parametrize("most", [None, 9])
def test_test_examples_are_found_again_in_your_own_file(most, tmp_path):
    rows = [["x", "y"], *([n, "uvw"[n % 3]] for n in range(60))]
    path = write_csv(tmp_path / "table.csv", rows)
    own = configs.Data("table", path=str(path), examples_per_class=most)
    task = load_task(datasets.resolve(own), 0)
    assert np.all(task.test_rows % 3 == task.test.labels)
    steps = np.diff(task.test.inputs[:, 0]) / np.diff(task.test_rows)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)  # x is the row, scaled
    assert not {*task.test_rows} & {*task.rows}
    # A test set of its own has rows of its own.
    for split in ("train", "test"):
        write_csv(tmp_path / "both" / f"{split}.csv", rows)
    own = dataclasses.replace(own, path=str(tmp_path / "both"))
    task = load_task(datasets.resolve(own), 0)
    assert task.test_rows.tolist() == list(range(60 if most is None else 27))


def test_arrays_are_predicted_as_the_test_set_is(trained, predicted, tmp_path, shell):
    images = _test_set(trained).inputs[:7]
    expected = _probabilities(predicted)[:7]
    np.save(tmp_path / "images.npy", images[..., 0].astype(float))
    np.savez(tmp_path / "images.npz", images=images, other=np.zeros(3))
    for name in ("images.npy", "images.npz"):
        found = rows(shell.printed("predict", trained, tmp_path / name))
        assert list(found[0]) == ["index", "predicted", *map(str, range(10))]
        np.testing.assert_allclose(_probabilities(found), expected, atol=2e-6)


def test_images_in_folders_are_predicted_by_their_paths(trained, tmp_path, shell):
    predicted = lambda path: rows(shell.printed("predict", trained, path))
    images = np.rint(255 * _test_set(trained).inputs[:3]).astype(np.uint8)
    names = ["a.png", "b/a.png", "b/c.png"]
    for name, image in zip(names, images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).save(tmp_path / name)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "notes.txt").write_text("not an image")
    of_files = predicted(tmp_path)
    assert [row["path"] for row in of_files] == [str(tmp_path / name) for name in names]
    of_arrays = predicted(tmp_path / "images.npy")
    np.testing.assert_array_equal(_probabilities(of_files), _probabilities(of_arrays))
    # One image, and one that is of another size.
    PIL.Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "large.png")
    assert predicted(tmp_path / "a.png") == of_files[:1]
    said = "large.png has 8 × 9 pixels, and digits has 8 × 8: resize it"
    shell.refused(3, said, "predict", trained, tmp_path / "large.png")


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (None, "There is no "),
        (np.zeros((2, 9, 9)), "[n, 8, 8, 1], got [2, 9, 9, 1]"),
        (np.full((2, 8, 8, 1), 16.0), "or floating in [0, 1], got float64 from 16"),
        (np.full((2, 8, 8, 1), np.nan), "got float64 from nan to nan"),
        (np.array([{"a": 1}]), "is no .npz or .npy file of numbers"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "has the arrays a, b: name the one"),
    ],
)
def test_what_cannot_be_predicted_is_refused(trained, saved, said, tmp_path, shell):
    source = tmp_path / "saved.npz"
    if isinstance(saved, dict):
        np.savez(source, **saved)
    elif saved is not None:
        source = tmp_path / "saved.npy"
        np.save(source, saved, allow_pickle=True)
    shell.refused(3, said, "predict", trained, source)


def test_predictions_that_cannot_be_written_are_refused(trained, tmp_path, shell):
    said = f"{tmp_path} cannot be written: Is a directory"
    shell.refused(2, said, "predict", trained, "--out", tmp_path)
    np.save(tmp_path / "a.npy", _test_set(trained).inputs)
    arguments = ("predict", trained, tmp_path / "a.npy", "--out", tmp_path / "a.npy")
    shell.refused(2, "a.npy would be overwritten, and it is what is read", *arguments)
    for command in ("predict", "evaluate"):
        shell.refused(2, "devices must be at", command, trained, "--devices", "99")
    shell.refused(2, "There is no directory", "predict", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    shell.refused(3, "has no image", "predict", trained, tmp_path / "empty")


@pytest.mark.parametrize(
    ("data", "out", "refused"),
    [
        ("table.csv", "table.csv", True),
        ("table.csv", "link.csv", True),
        ("table.csv", "folder/../table.csv", True),
        ("table.csv", "input.csv", True),
        ("table.csv", "folder/train.csv", False),
        ("table.csv", "new.csv", False),
        ("folder", "folder/train.csv", True),
        ("folder", "folder/test.csv", False),  # is not there
        ("folder", "folder/other.csv", False),
        ("folder", "table.csv", False),
    ],
)
def test_what_is_read_is_not_overwritten(data, out, refused, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("table.csv", "folder/train.csv", "folder/other.csv", "input.csv"):
        (tmp_path / name).touch()
    (tmp_path / "link.csv").symlink_to("table.csv")
    own = configs.Data("table", path=str(tmp_path / data))
    run = configs.Run(own, configs.Model("mlp"))
    with contextlib.ExitStack() as stack:
        if refused:
            said = f"{re.escape(out)} would be overwritten, and it is what is read"
            stack.enter_context(pytest.raises(configs.BadConfiguration, match=said))
        given = tmp_path / "input.csv"
        evaluation.refuse_overwriting(run, tmp_path / out, source=given)


def test_image_files_are_prepared_as_those_of_the_data_set(tmp_path):
    data = configs.Data("places_lt", image_size=8)
    rng = np.random.default_rng(0)
    for name, size in (("b.jpg", (30, 20, 3)), ("a.PNG", (9, 16, 3))):
        PIL.Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / name)
    found = inputs.load(tmp_path, data)
    assert found.paths == [str(tmp_path / name) for name in ("a.PNG", "b.jpg")]
    (batch,) = loader.batches(found.examples, data, 3)
    for row in range(2):
        expected = images.image(found.examples.inputs, row, data, None)
        np.testing.assert_array_equal(batch.inputs[row], expected)
    assert batch.present.tolist() == [True, True, False]


def test_texts_are_token_ids(tmp_path):
    data = configs.Data("imdb", vocabulary=20, length=6)
    np.save(tmp_path / "ids.npy", np.arange(12).reshape(2, 6))
    found = inputs.load(tmp_path / "ids.npy", data).examples.inputs
    assert found.dtype == np.int32
    np.save(tmp_path / "ids.npy", np.arange(12, 24).reshape(2, 6))
    with pytest.raises(DamagedData, match="integers below 22, got int64 from 12 to 23"):
        inputs.load(tmp_path / "ids.npy", data)


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        ("cifar100", ("apple", "worm")),
        ("clothing1m", ("T-shirt", "underwear")),
        ("covid_lt", ("other findings", "COVID-19")),
    ],
)
def test_data_sets_name_their_classes(source, ends):
    entry = registry.DATASETS[source]
    names = entry.class_names
    assert len({*names}) == len(names) == entry.classes
    assert (names[0], names[-1]) == ends
    size = None if source == "cifar100" else 8
    assert configs.Data(source, image_size=size).class_names == names


def test_raw_reviews_are_predicted_as_the_test_set_is(tmp_path, shell):
    data_dir, out = tmp_path / "data", tmp_path / "run"
    truth = trees.tfds_imdb(data_dir)
    flags = ("--model.widths", "4", "--epochs", "1", "--no-tensorboard")
    flags += ("--method.start-at", "0")
    shell.printed("train", "imdb_smoke", *flags, "--data-dir", data_dir, "--out", out)
    predicted = lambda *arguments: rows(shell.printed("predict", out, *arguments))
    expected = predicted()
    texts, _ = truth["test"]
    kept = load_task(run_dir.load(out).run.data, 0, data_dir).test
    assert len(expected) == len(kept.labels) <= len(texts)
    (tmp_path / "lines.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "files").mkdir()
    for index, text in enumerate(texts):
        path = tmp_path / "files" / f"{index:03}.txt"
        path.write_text(text, encoding="utf-8")
    with (tmp_path / "column.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "review"), *enumerate(texts)])
    shown = [(row["negative"], row["positive"]) for row in predicted("-")]
    for source in ("lines.txt", "files", "column.csv"):
        found = predicted(tmp_path / source)
        of_source = [(row["negative"], row["positive"]) for row in found]
        assert len(found) == len(texts)
        assert {*shown} <= {*of_source}
        first = "path" if source == "files" else "index"
        assert list(found[0]) == [first, "predicted", "negative", "positive"]
    assert predicted(tmp_path / "files" / "000.txt")[0]["index"] == "0"
    # Elsewhere the vocabulary is not known, and token ids need none.
    data_dir.rename(tmp_path / "moved")
    status, _, said = shell("predict", out, tmp_path / "lines.txt")
    assert status == 3
    assert f"vocabulary of IMDB's training reviews, which are not in {data_dir}" in said
    assert "--data-dir, the one that holds aclImdb/ or imdb_reviews/" in said
    np.save(tmp_path / "ids.npy", kept.inputs)
    assert predicted(tmp_path / "ids.npy")[0]["positive"] == expected[0]["positive"]
    assert predicted(tmp_path / "lines.txt", "--data-dir", tmp_path / "moved")
    shell.refused(3, "There is no ", "predict", out, tmp_path / "nothing.txt")


# Exports.

RELOADED = """
import pathlib, sys
import jax, numpy as np
network = jax.export.deserialize(pathlib.Path(sys.argv[1]).read_bytes())
np.save(sys.argv[3], network.call(np.load(sys.argv[2])))
assert network.platforms == ("cpu", "cuda", "tpu")
assert not {"experiments", "absgd_jax", "flax"} & set(sys.modules)
"""


def test_an_exported_network_needs_none_of_this(trained, predicted, tmp_path):
    out = tmp_path / "exported"
    assert main(["export", str(trained), "--out", str(out)]) == 0
    np.save(tmp_path / "images.npy", _test_set(trained).inputs[:5])
    arguments = [out / "network.stablehlo", tmp_path / "images.npy", tmp_path / "found"]
    subprocess.run([sys.executable, "-c", RELOADED, *arguments], cwd=out, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), _probabilities(predicted)[:5], atol=2e-6
    )
    described = json.loads((out / "export.json").read_text())
    assert described["input"] == {"dtype": "float32", "shape": ["batch", 8, 8, 1]}
    assert described["classes"] == [str(label) for label in range(10)]
    weights = load_file(out / "weights.safetensors")
    assert weights["head.kernel"].shape == (8, 10)
    assert weights["blocks.1.norm.var"].shape == (8,)
    assert "float32 [n, 8, 8, 1]" in (out / "README.txt").read_text()


def test_an_export_takes_any_number_of_examples(trained, predicted):
    kept = run_dir.load(trained)
    _, state = evaluation.restore(trained, kept, sharding.layout(1))
    network = export.exported_of(kept.run, state, "float32")
    images = _test_set(trained).inputs
    for n in (1, 300):
        found = network.call(images[:n])
        np.testing.assert_allclose(found, _probabilities(predicted)[:n], atol=2e-6)


@pytest.mark.parametrize("name", ["imdb", "cifar10_sym20"])
def test_networks_of_every_kind_are_exported(name):
    run = presets.get(f"{name}_smoke").run
    layout = sharding.layout(1)
    state = steps.program(run, layout).init(steps.init_network(run, 0), 0, 10)
    network = export.exported_of(run, state, run.data.info.dtype)
    rng = np.random.default_rng(0)
    examples = rng.integers(0, 9, (3, *run.data.shape)).astype(run.data.info.dtype)
    found = np.asarray(network.call(examples))
    assert found.shape == (3, run.data.classes)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
