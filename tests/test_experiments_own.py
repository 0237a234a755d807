"""Your own data: the page's commands on small real files, and what can be wrong."""

import collections
import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import pathlib
import re
import shlex
import shutil
import sys
import textwrap

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets as sklearn_datasets
from sklearn import metrics as sklearn_metrics

from experiments import cli, configs, methods, presets
from experiments.data import (
    datasets,
    inputs,
    loader,
    own,
    own_arrays,
    own_table,
    own_text,
)
from experiments.data.task import load_task
from experiments.data.types import DamagedData, file_names
from experiments.results import metrics, run_dir
from experiments.train import checkpoint, loop, sharding, steps
from tests import programs
from tests.outcomes import cells
from tests.trees import write_csv

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "your_data.md"
COMMANDS = re.findall(r"^python -m experiments (.*)$", PAGE.read_text("utf-8"), re.M)
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
GOOD = ("a fine film", "I loved it", "great acting and a good story", "wonderful")
BAD = ("a dull film", "I hated it", "poor acting and a weak story", "awful")


def _patients(path):
    """Of the wards some have one patient, whom training may not see."""
    data = sklearn_datasets.load_breast_cancer()
    rows = [["id", "diagnosis", "radius", "texture", "area", "shape", "ward"]]
    for index, (numbers, target) in enumerate(zip(data.data, data.target, strict=True)):
        cells = ["" if (index + c) % 17 == 0 else numbers[c] for c in (0, 1, 3)]
        shape = "round" if numbers[4] > 0.1 else "flat"
        ward = f"ward {index if index % 9 == 0 else index % 4}"
        rows.append([f"p{index}", data.target_names[target], *cells, shape, ward])
    return write_csv(path, rows)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A directory with the files of the page."""
    root = tmp_path_factory.mktemp("own")
    _patients(root / "patients.csv")
    digits = sklearn_datasets.load_digits()
    images = (digits.images * 15.9).astype(np.uint8)
    np.savez(
        root / "digits.npz",
        x_train=images[:300],
        y_train=digits.target[:300],
        x_test=images[300:400],
        y_test=digits.target[300:400],
    )
    np.savez(root / "vectors.npz", x=digits.data[:400], y=digits.target[:400])
    for index in np.flatnonzero(digits.target[:200] < 3):
        file = root / "pictures" / f"digit {digits.target[index]}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(file)
    for split in ("test", "val"):
        shutil.copytree(root / "pictures", root / "no_train" / split)
    (root / "broken_data.py").write_text(BROKEN_DATA, encoding="utf-8")
    texts = [(GOOD[i % 4], "good") for i in range(24)]
    texts += [(BAD[i % 4], "bad") for i in range(24)]
    write_csv(root / "reviews.csv", [("text", "label"), *texts])
    code, _ = SCRIPTS
    (root / "my_data.py").write_text(code, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _in_it(here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))


@pytest.fixture(scope="module")
def trained(here):
    """The directory of the runs that the page's commands make, and what they print."""
    printed = io.StringIO()
    with (
        contextlib.chdir(here),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        sys.path.insert(0, str(here))
        for command in COMMANDS:
            words = shlex.split(command)
            if words[0] in ("train", "compare"):
                words += ["--epochs", "1", "--no-tensorboard"]
                small = "--model.widths" not in words and words[1] != "own_table"
                words += ["--model.widths", "4"] if small else []
                one = ["--methods", "absgd_auto,cb_ce", "--seeds", "1", "--rates", "1"]
                words += one if words[0] == "compare" else []
            assert cli.main(words) == 0, command
        sys.path.remove(str(here))
    return here / "runs", printed.getvalue()


def test_groups_have_the_accuracy_that_the_predictions_say(trained, here, capsys):
    exec(SCRIPTS[1], {})
    printed = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"(.*): (\d+) of (\d+) right", line) for line in printed]
    kept = json.loads((trained[0] / "patients" / "evaluation.json").read_text())["test"]
    right, seen = (sum(int(one[n]) for one in found) for n in (2, 3))
    assert seen == kept["examples"]
    assert right / seen == pytest.approx(kept["accuracy"])
    assert len(found) > 4
    with (here / "predictions.csv").open(newline="") as file:
        rows = [int(row["index"]) for row in csv.DictReader(file)]
    with (here / "patients.csv").open(newline="") as file:
        wards = [row["ward"] for row in csv.DictReader(file)]
    of_ward = collections.Counter(wards[row] for row in rows)
    assert {one[1]: int(one[3]) for one in found} == of_ward


def test_every_command_of_the_page_runs(trained):
    folder, printed = trained
    assert "malignant" in printed  # of the report and evaluation
    assert "Columns: 3 of numbers, 2 of categories; the label is 'diag" in printed
    assert "Examples are images: height 8, width 8, channels 1." in printed
    assert "Classes: class_0, class_1, class_2." in printed
    runs = sorted(path.parent for path in folder.glob("*/config.json"))
    assert len(runs) == sum(command.startswith("train") for command in COMMANDS)
    names = {path.name: run_dir.load(path).run.data.class_names for path in runs}
    assert names["patients"] == ("benign", "malignant")
    assert names["wine"] == ("class_0", "class_1", "class_2")
    assert names["pictures"] == ("digit 0", "digit 1", "digit 2")

    # Of two classes the metrics are scikit-learn's, with validation's threshold.
    patients = folder / "patients"
    kept = json.loads((patients / "evaluation.json").read_text())
    assert kept["class_names"] == ["benign", "malignant"]
    assert kept["test"]["threshold"] == kept["validation"]["threshold"]
    (epoch,) = programs.epochs(patients)
    assert epoch["test"]["auroc"] == pytest.approx(kept["test"]["auroc"])
    assert "AUROC" in (patients / "report.md").read_text("utf-8")
    assert "AUROC" in (folder / "compared" / "table.md").read_text("utf-8")


def test_a_run_says_classes_by_their_names(trained, shell):
    out, names = trained[0] / "patients", {"benign", "malignant"}
    assert {*json.loads((out / run_dir.CONFIG).read_text())["class_names"]} == names
    first = cells(shell.printed("suspects", out).splitlines()[2])
    assert {*first[3:5]} <= names
    shell.printed("report", out, "--tables")
    (path,) = (out / "tables").glob("*-most-likely-wrong.csv")
    assert {row["label"] for row in programs.rows(path.read_text())} <= names


def test_a_finished_run_goes_on_to_more_epochs_only_on_the_same_data(here, shell):
    _patients(here / "moved.csv")
    command = ["train", "own_table", "--data.path", "moved.csv", "--data.drop", "id"]
    command += ["--data.label", "diagnosis", "--epochs", "1", "--out", "runs/moved"]
    shell.printed(*command)
    shell.refused(0, "is finished", *command)
    # The same data at another path are the same.
    (here / "moved.csv").rename(here / "there.csv")
    shell.refused(3, "train` with the new path", "evaluate", "runs/moved")
    of_there = [word.replace("moved.csv", "there.csv") for word in command]
    shell.refused(0, "is finished", *of_there)
    shell.printed("evaluate", "runs/moved")
    shutil.copy(here / "there.csv", here / "moved.csv")
    shell.refused(0, "is finished", *command)
    lines = (here / "moved.csv").read_text("utf-8").splitlines()
    few = [line for line in lines[2:] if "malignant" not in line]
    write_csv(here / "moved.csv", [line.split(",") for line in [*lines[:2], *few]])
    for command in ("evaluate", "suspects", "predict"):
        said = "Class 'malignant' has 1 example left, too few to hold out 1"
        shell.refused(2, said, command, "runs/moved")
    said = "moved.csv has changed since the run began"
    write_csv(here / "moved.csv", [line.split(",")[:-1] for line in lines])
    shell.refused(3, said, "evaluate", "runs/moved")
    # With more rows others are held out: the test set would have trained examples. So
    # it would with the same rows in another order.
    head, *rows = [line.split(",") for line in lines]
    write_csv(here / "moved.csv", [head, *rows[::-1]])
    said = "began: its inputs, its labels or the order of its examples. Train on it"
    shell.refused(3, said, "evaluate", "runs/moved")
    write_csv(here / "moved.csv", [head, *rows, *rows[-20:]])
    said = "moved.csv has changed since the run began"
    for command in (
        ("evaluate",),
        ("predict",),
        ("predict", "moved.csv"),
        ("export",),
        ("resume", "--epochs", "2"),
    ):
        shell.refused(3, said, command[0], "runs/moved", *command[1:])


@pytest.fixture(scope="module")
def other(here, trained):
    """Other data by the configuration of a run; validation has a single class."""
    rows = [[i, i % 7, "uv"[i % 2]] for i in range(60)]
    parts = {"train": rows, "test": rows[:30], "val": rows[::2]}
    for name, part in parts.items():
        write_csv(here / "other" / f"{name}.csv", [["a", "b", "y"], *part])
    config = ["train", "--config", str(trained[0] / "patients"), "--data.label", "y"]
    more = ["--data.drop", "--data.path", str(here / "other"), "--epochs", "1"]
    out = here / "by the configuration"
    assert cli.main([*config, *more, "--out", str(out)]) == 0
    return out


def test_the_configuration_of_a_run_is_taken_to_other_data(trained, other):
    found, expected = run_dir.load(other), run_dir.load(trained[0] / "patients")
    assert found.run.model == expected.run.model
    assert found.run.data.class_names == ("u", "v")


def test_without_both_classes_in_validation_the_threshold_is_one_half(other):
    (epoch,) = programs.epochs(other)
    assert math.isnan(float(epoch["validation"]["threshold"]))
    assert epoch["test"]["threshold"] == 0.5
    assert epoch["test"]["f1"] > 0.0


@pytest.mark.usefixtures("trained")
def test_a_first_stage_on_another_vocabulary_is_refused(here, shell):
    words = ["train", "own_text", "--data.path", "reviews.csv", "--data.length", "20"]
    words += ["--model.widths", "4", "--epochs", "1", "--no-tensorboard"]
    words += ["--start-from", "runs/reviews"]
    said = "embedding.embedding: [20002, 128] there, [10, 128] here"
    out = here / "runs" / "second"
    shell.refused(2, said, *words, "--data.vocabulary", "8", "--out", out)
    shell.printed(*words, "--out", out)


def test_hidden_copies_are_no_examples(here, tmp_path):
    pictures = shutil.copytree(here / "pictures", tmp_path / "pictures")
    expected = list(own.listed(pictures, own.IMAGES, "image")["train"])
    for folder in [*pictures.iterdir()]:
        copies = folder / ".ipynb_checkpoints"
        shutil.copytree(folder, copies)
        shutil.copy(next(copies.iterdir()), folder / "._copy.png")
        (folder / "folder.png").mkdir()
    shutil.copytree(pictures / "digit 0", pictures / "__MACOSX")
    assert own.listed(pictures, own.IMAGES, "image")["train"] == expected
    data = configs.Data("folder", str(pictures), image_size=8)
    assert len(inputs.load(pictures, data).paths) == len(expected)


def test_a_table_of_texts_is_found_whatever_the_case_of_its_name(tmp_path):
    long = "fine " * 30_000  # longer than a field may be by csv's own limit
    rows = 6 * [(long, "good"), ("a dull film", "bad")]
    write_csv(tmp_path / "Train.csv", [("text", "label"), *rows])
    (tmp_path / "lines.txt").write_text("a\u2028b\nc\n\n", encoding="utf-8")
    data = configs.Data("text", str(tmp_path))
    assert _task(tmp_path, "text").class_counts.sum() > 0
    assert csv.field_size_limit() < len(long)  # it is that of the whole process
    texts, _ = own_text.unlabelled(tmp_path / "lines.txt", data)
    assert texts.tolist() == ["a\u2028b", "c"]


def _task(path, source="table", seed=0, **fields):
    data = configs.Data(source, str(path), **fields)
    return load_task(datasets.resolve(data), seed)


def test_tables_are_prepared_by_the_training_set_alone(tmp_path):
    rng = np.random.default_rng(0)
    rows = [["a", "b", "kind", "", "y"]]
    for index in range(60):
        number = "" if index % 7 == 0 else rng.normal(5.0, 3.0)
        kind = "rare" if index == 3 else "uv"[index % 2]
        rows.append([number, 1.0, kind, index, index % 3])
    path = write_csv(tmp_path / "one.csv", rows)
    task = _task(path)
    train, validation, test = task.train, task.validation, task.test
    assert [len(part.labels) for part in (train, validation, test)] == [42, 6, 12]
    # a, b, and three kinds; the column without a name is not used.
    assert train.inputs.shape[1] == 5
    assert np.isfinite(train.inputs).all()
    np.testing.assert_allclose(train.inputs[:, 0].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(train.inputs[:, 0].std(), 1.0, atol=1e-5)
    np.testing.assert_array_equal(train.inputs[:, 1], 0.0)  # which does not vary
    hot = np.concatenate([part.inputs[:, 2:] for part in (train, validation, test)])
    assert hot.sum(axis=1).tolist().count(0.0) == (0 if train.inputs[:, 2].any() else 1)
    # The test set is that of every seed, the validation set is not.
    other = _task(path, seed=1)
    np.testing.assert_array_equal(other.test.labels, test.labels)
    assert not np.array_equal(other.validation.inputs, validation.inputs)

    # With a test file of their own; what training has not seen is zeros.
    write_csv(tmp_path / "split" / "train.csv", rows)
    write_csv(tmp_path / "split" / "test.csv", [rows[0], ["", 1.0, "new", 0, 2]])
    (unseen,) = _task(tmp_path / "split").test.inputs
    np.testing.assert_array_equal(unseen[2:], 0.0)


def test_a_category_that_only_held_out_rows_have_is_zeros():
    categories = {"kind": {"rare": 0, "u": 1, "v": 2}}
    encode = own_table._fit(np.array([[1.0], [2.0]]), categories)
    found = encode(np.array([[0.0], [1.0], [2.0], [-1.0]]))
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_what_is_missing_is_the_median_of_training():
    train = np.array([[1.0], [2.0], [9.0], [np.nan]])
    filled = np.array([1.0, 2.0, 9.0, 2.0])
    expected = (filled - filled.mean()) / filled.std()
    found = own.standardise(train)
    np.testing.assert_allclose(found(train)[:, 0], expected, rtol=1e-6)


def test_a_split_is_one_file(tmp_path, shell):
    """Another kind of file is none, and two of one split are refused."""
    for name in ("train", "val"):
        write_csv(tmp_path / f"{name}.csv", ROWS)
        (tmp_path / f"{name}.md").write_text("notes")
    assert len(_task(tmp_path).validation.labels) == len(ROWS) - 1
    write_csv(tmp_path / "Validation.tsv", ROWS)
    words = ["train", "own_table", "--data.path", tmp_path, "--out", tmp_path / "out"]
    said = "has Validation.tsv and val.csv, which are both for the validation set"
    shell.refused(3, said, *words)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["'90s", "90s", "rock 'n' roll'"], ("'90s", "90s", "rock 'n' roll'")),
        (["'a'", "'b'", "a"], ("a", "b")),  # as ARFF files write them
        (["0", "1", "0.00", "1.0", "1E2"], ("0", "1", "1E2")),
        (["007", "7", "7.50", "7.5"], ("7", "007", "7.5")),
        (["0.000000000000000000e+00", "1.000000000000000000e+00"], ("0", "1")),
    ],
)
def test_labels_are_those_of_the_file(labels, expected, tmp_path):
    rows = [[i, label] for i in range(12) for label in labels]
    task_of = _task(write_csv(tmp_path / "train.csv", [["a", "y"], *rows]))
    assert {*np.bincount(task_of.train.labels).nonzero()[0]} == {*range(len(expected))}
    data = datasets.resolve(configs.Data("table", path=str(tmp_path / "train.csv")))
    assert {*data.class_names} == {*expected}


def test_spaces_after_commas_and_on_empty_lines_are_none(tmp_path):
    path = tmp_path / "spaced.csv"
    rows = "".join(f'"{i / 7:.2f}", "{i % 5}", "{"uv"[i % 2]}"\n \n' for i in range(20))
    path.write_text(f'"a, b", "c", "y"\n{rows}')
    assert _task(path).prepare.numeric == ["a, b", "c"]


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (gzip.compress, "but compressed by gzip"),
        (lambda text: text.decode().encode("utf-16"), "but in UTF-16"),
    ],
)
def test_a_file_that_is_not_text_in_utf_8_is_named(encode, said, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(encode(b"a,y\n" + b"1,u\n2,v\n" * 200))
    with pytest.raises(DamagedData, match=said):
        _task(path)


def test_classes_called_as_other_columns_or_with_commas_are_told_apart(here, shell):
    names = ["index", "label, too"]
    write_csv(here / "names.csv", [["a", "y"], *([i, names[i % 2]] for i in range(60))])
    command = ["train", "own_table", "--data.path", "names.csv", "--epochs", "1"]
    said = "Classes: index, 'label, too'."
    shell.refused(0, said, *command, "--out", "runs/names")
    first = shell.printed("predict", "runs/names").splitlines()[0]
    (head,) = csv.reader([first])
    assert head[:3] == ["index", "label", "predicted"]
    assert head[3:] == ["probability of index", "label, too"]
    assert "'label, too' " in shell.printed("evaluate", "runs/names")


@pytest.mark.parametrize(
    ("head", "label"),
    [
        (["", "0", "1", "2", "label"], "label"),  # as pandas writes columns and index
        (["0", "1", "2", "3"], "3"),
        (["1", "2", "3", "y"], "y"),
        (["2010", "2011", "2012", "label"], "label"),
        (["age", "2011", "2012", "Target"], "Target"),
        (["2010", "species", "2012", "2013"], "species"),  # as --data.label says
        (["a", "b", "c", "u"], "u"),  # named after a class
        (["Unnamed: 0", "a", "b", "kind", ""], "kind"),  # and a comma at the end
        (["", "a", "kind", ""], "kind"),
    ],
)
def test_names_of_columns_are_found_as_other_programs_write_them(head, label, tmp_path):
    at = head.index(label)
    rows = [[f"{n + i}" for i in range(len(head))] for n in range(20)]
    for n, row in enumerate(rows):
        row[at] = "uv"[n % 2]
    write_csv(tmp_path / "train.csv", [head, *rows])
    write_csv(tmp_path / "test.csv", [head, *rows])
    task = _task(tmp_path, label="species" if label == "species" else None)
    sizes = [len(part.labels) for part in (task.train, task.validation, task.test)]
    assert sizes == [18, 2, 20]
    used = [n for n in head if n not in ("", "Unnamed: 0", label)]
    assert task.prepare.numeric == used


def test_a_first_row_of_data_is_data(tmp_path):
    rows = [[n, 1, 7, "uv"[n % 2]] for n in range(20)]
    task = _task(write_csv(tmp_path / "one.csv", rows))
    assert task.prepare.numeric == ["1", "2", "3"]
    path = tmp_path / "two.csv"
    path.write_text("\n" + "".join(f"{n};{'uv'[n % 2]}\n" for n in range(20)))
    assert _task(path).prepare.numeric == ["1"]  # an empty line has no delimiter


def test_texts_without_header_are_all_read(tmp_path):
    rows = [[f"a good film {i}", "pos"] for i in range(20)]
    rows += [[f"a bad film {i}", "neg"] for i in range(20)]
    path = write_csv(tmp_path / "one.csv", rows)
    data = datasets.resolve(configs.Data("text", str(path), length=6))
    assert data.contents.class_sizes == (20, 20)
    (notes,) = datasets.load(data, None).notes
    assert notes.startswith(
        "Columns: the text is '1', the label '2'. The first row was"
    )
    # So are those of a file to be predicted, with the labels or without.
    only = write_csv(tmp_path / "only.csv", [row[:1] for row in rows])
    for other in (path, only):
        assert own_text.unlabelled(other, data)[0].tolist() == [row[0] for row in rows]
    # Where training has had no columns, they must be named.
    said = "a first row with the names .* one of them text, sentence.*got a good film 0"
    with pytest.raises(DamagedData, match=said):
        own_text.unlabelled(only, configs.Data("imdb"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (('"hello', 'bye"'), ('"hello', 'bye"')),  # with whole rows between them
        (('"no" he said', "x"), ('"no" he said', "x")),
        (('"a\nb"', '"c ""d"" e"'), ("a\nb", 'c "d" e')),  # as programs write them
    ],
)
def test_quotes_between_tabs_are_text_unless_they_pair(cells, expected, tmp_path):
    texts = [f"film {i}" for i in range(20)]
    texts[3], texts[8] = cells
    lines = [f"{text}\t{i % 2}\n" for i, text in enumerate(texts)]
    path = tmp_path / "one.tsv"
    path.write_text("text\tlabel\n" + "".join(lines))
    found = own_table.read(path, configs.Data("text", str(path)))
    texts[3], texts[8] = expected
    assert found.rows == [[text, str(i % 2)] for i, text in enumerate(texts)]


def test_images_of_zeros_and_ones_are_standardised(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.random((40, 6, 5)) < 0.3, np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    task = _task(tmp_path / "a.npz", "arrays")
    assert task.train.inputs.std() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("bytes_in", ["x", "x_test"])
@pytest.mark.parametrize("shape", [(40, 6, 5), (40, 30)])
def test_bytes_and_parts_of_one_are_not_mixed(bytes_in, shape, tmp_path, shell):
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    y, path = np.arange(40) % 2, tmp_path / "a.npz"
    scaled = {name: x / np.float32(255) for name in ("x", "x_test")} | {bytes_in: x}
    np.savez(path, y=y, y_test=y, **scaled)
    words = ["train", "own_arrays", "--data.path", path, "--out", tmp_path / "out"]
    names = ["test", "train"] if bytes_in == "x_test" else ["train", "test"]
    said = "the {} set is uint8 from 0 to 255, and the {} set is float32 from 0 to 1"
    shell.refused(3, said.format(*names), *map(str, words))


@pytest.mark.parametrize("other", [np.float32, np.int64, bool])
def test_other_dtypes_of_one_scale_are_read(other, tmp_path):
    x = np.random.default_rng(0).integers(0, 2 if other is bool else 256, (40, 6, 5))
    y = np.arange(40) % 2
    np.savez(
        tmp_path / "a.npz", x=x.astype(np.uint8), y=y, x_test=x.astype(other), y_test=y
    )
    task = _task(tmp_path / "a.npz", "arrays")
    assert task.test.inputs.max() == task.train.inputs.max()


def test_missing_names_among_objects_are_refused(here, shell):
    (here / "none_data.py").write_text(
        "import numpy as np\n"
        "def none():\n"
        "    return [(np.zeros((9, 3)), np.array(['a', 'b', None] * 3, object))]\n"
    )
    words = ["train", "own_table", "--data.source", "python", "--data.path"]
    said = "example 2: the label is missing, got None. Nothing, na, n/a, nan"
    shell.refused(3, said, *words, "none_data:none", "--out", "runs/none")


def test_folders_are_subsampled_as_tables_are(here):
    files = sorted((here / "pictures").glob("*/*.png"))
    table = [["path", "label"], *([file.name, file.parent.name] for file in files)]
    table = write_csv(here / "pictures.csv", table)
    found, expected = (
        _task(path, source, seed=3, imbalance_ratio=5.0, **fields)
        for path, source, fields in (
            ("pictures", "folder", {"image_size": 8}),
            (table, "table", {}),
        )
    )
    assert found.class_counts.min() == found.class_counts.max() // 5
    for name in ("rows", "class_counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("train", "validation", "test"):
        labels = (getattr(task, name).labels for task in (found, expected))
        np.testing.assert_array_equal(*labels)


def test_rows_are_those_of_the_file(here):
    rows = programs.rows((here / "patients.csv").read_text("utf-8"))
    diagnosis = [row["diagnosis"] for row in rows]
    task = _task("patients.csv", label="diagnosis")
    names = sorted({*diagnosis})
    assert [diagnosis[row] for row in task.rows] == [
        names[label] for label in task.train.labels
    ]


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": [1.0, None, 3.0] * 10, "k": ["u", "v", None] * 10}
    table = pyarrow.table(columns | {"y": [0, 1, 1] * 10})
    parquet.write_table(table, tmp_path / "one.parquet")
    text = [["a", "k", "y"], *([1.0, "u", 0], ["", "v", 1], [3.0, "", 1]) * 10]
    expected = _task(write_csv(tmp_path / "one.csv", text))
    found = _task(tmp_path / "one.parquet")
    np.testing.assert_array_equal(found.train.inputs, expected.train.inputs)
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    stored = table.set_column(1, "k", table["k"].cast(pyarrow.binary()))
    stored = stored.append_column("pixels", [[[0, 255]] * 30])
    parquet.write_table(stored, tmp_path / "two.parquet")
    with pytest.raises(DamagedData, match=r"column 'pixels' is list<.*--data.drop pix"):
        _task(tmp_path / "two.parquet", label="y")
    again = _task(tmp_path / "two.parquet", label="y", drop=("pixels",))
    np.testing.assert_array_equal(again.train.inputs, expected.train.inputs)
    (tmp_path / "one.parquet").rename(tmp_path / "train.parquet")
    (tmp_path / "one.csv").unlink()
    (tmp_path / "two.parquet").rename(tmp_path / "test.parquet")
    assert len(_task(tmp_path, label="y").test.labels) == 30  # `pixels` is not used


def test_arrays_of_every_layout_are_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 5, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x=images, y=labels[:, None])
    stored = {"images": images.transpose(0, 3, 1, 2), "labels": labels}
    np.savez(tmp_path / "b.npz", **stored, sample_weight=labels)
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "train_images.npy", images.astype(np.int64))
    np.save(tmp_path / "c" / "train_labels.npy", np.array(["no", "yes"])[labels])
    tasks = [_task(tmp_path / name, "arrays") for name in ("a.npz", "b.npz", "c")]
    for task in tasks[1:]:
        np.testing.assert_array_equal(task.train.inputs, tasks[0].train.inputs)
        np.testing.assert_array_equal(task.test.labels, tasks[0].test.labels)
    np.savez(tmp_path / "d.npz", x=images / 255.0, y=labels)
    assert datasets.load(
        configs.Data("arrays", str(tmp_path / "b.npz")), None
    ).notes == (
        "Examples are images: height 6, width 5, channels 3.",
        f"Not used, in {tmp_path / 'b.npz'}: sample_weight.",
    )
    floats = _task(tmp_path / "d.npz", "arrays").train.inputs
    np.testing.assert_allclose(floats.mean(axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(floats.std(axis=(0, 1, 2)), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((12, 16, 16), (16, 16, 12)),
        ((16, 16, 12), (16, 16, 12)),
        ((3, 4, 4), (4, 4, 3)),
        ((4, 4, 3), (4, 4, 3)),
        ((1, 32, 9), (32, 9, 1)),
        ((12, 16, 20), None),
        ((5, 5, 5), None),
        ((3, 3, 3), None),
        ((3, 32, 4), None),
    ],
)
def test_the_axis_of_channels_is_plain_or_refused(shape, expected):
    x, data = np.zeros((2, *shape)), configs.Data("arrays", "x.npz")
    if expected is not None:
        assert own_arrays.as_stored("x.npz", x, data).shape[1:] == expected
        return
    with pytest.raises(DamagedData, match=re.escape(f"got the shape {x.shape}")):
        own_arrays.as_stored("x.npz", x, data)
    of_function = configs.Data("python", "my_data:images")
    assert own_arrays.as_stored("mine", x, of_function).shape == x.shape


def test_images_of_many_channels_are_trained_on(here):
    """With all but compiling."""
    (here / "bands.py").write_text(
        "import numpy as np\n"
        "def bands():\n"
        "    x = np.random.default_rng(0).integers(0, 256, (40, 8, 9, 12))\n"
        "    return (x, np.arange(40) % 2), None, None, np.array(['no', 'yes'])\n"
    )
    data = configs.Data("python", "bands:bands", crop_padding=1)
    data = datasets.resolve(data)
    (note,) = datasets.load(data, None).notes
    assert note == "Examples are images: height 8, width 9, channels 12."
    assert data.class_names == ("no", "yes")
    run = presets.get("own_arrays").run
    run = configs.replace(run, {"data": data, "model.widths": (4,), "batch_size": 8})
    task, layout = load_task(data, 0), sharding.layout(1)
    batch = next(loader.training(task.train, data, 8, seed=0, epochs=range(1)))
    assert batch.inputs.shape == (8, 8, 9, 12)
    state = steps.abstract_state(run, layout, len(task.train.labels))
    stats = loop.dataset_stats(run, task, layout)
    hyperparams = methods.step_hyperparams(run, 1, 0)
    after, _ = jax.eval_shape(steps.updates_of(run), state, batch, stats, hyperparams)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_texts_in_folders_are_those_of_a_table(tmp_path):
    texts = [(text, name) for name, of in (("bad", BAD), ("good", GOOD)) for text in of]
    texts *= 6
    for index, (text, name) in enumerate(texts):
        for split in ("train", "test"):
            file = tmp_path / "texts" / split / name / f"{index:02}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    texts.sort(key=lambda one: one[1])
    for split in ("train", "test"):
        write_csv(tmp_path / "table" / f"{split}.csv", [("review", "label"), *texts])
    found, expected = (
        _task(tmp_path / name, "text", length=6) for name in ("texts", "table")
    )
    assert {*map(tuple, found.test.inputs)} == {*map(tuple, expected.test.inputs)}
    assert (found.train.inputs > 0).any()

    # The paper's reviews as their authors publish them.
    for split in ("train", "test"):
        for mine, name in (("good", "pos"), ("bad", "neg")):
            target = tmp_path / "aclImdb" / split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "texts" / split / mine).rename(target)
    (tmp_path / "aclImdb" / "train" / "unsup").mkdir()
    (tmp_path / "aclImdb" / "train" / "unsup" / "0.txt").write_text("it")
    reviews = datasets.load(configs.Data("imdb", partial=True, length=6), tmp_path)
    assert reviews.train.labels.tolist() == [0] * 24 + [1] * 24
    with pytest.raises(datasets.DamagedData, match="published are 12,500 of each"):
        datasets.load(configs.Data("imdb", length=6), tmp_path)


def test_metrics_of_two_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = rng.normal(size=(300, 2)).astype(np.float32)
    logits[:, 1] += labels
    counts, count = None, jax.jit(metrics.count)
    for rows in np.split(np.arange(300), 3):
        new = count(logits[rows], labels[rows], np.ones(100, bool))
        counts = new if counts is None else metrics.add(counts, new)
    found = metrics.summary(counts, np.array([1, 1]), labels=labels, threshold=None)
    odds = logits[:, 1] - logits[:, 0]
    assert found["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, odds))
    assert found["average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(labels, odds)
    )
    probability = 1.0 / (1.0 + np.exp(-odds.astype(np.float64)))
    f1 = [sklearn_metrics.f1_score(labels, probability >= p) for p in probability[:60]]
    assert found["f1"] >= max(f1)
    predicted = probability >= found["threshold"]
    assert found["balanced_at_threshold"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, predicted)
    )
    at_half = metrics.summary(counts, np.array([1, 1]), labels=labels)
    assert at_half["balanced_at_threshold"] == pytest.approx(at_half["balanced"])
    one_class = metrics.binary(odds, np.zeros(300))
    assert all(np.isnan(value) for value in one_class.values())


@pytest.mark.parametrize(
    ("source", "positive"), [("table", "fraud"), ("table", "ok"), ("arrays", "0")]
)
def test_the_positive_class_is_the_second(source, positive, tmp_path):
    """Every example keeps the name of its class."""
    names = ["fraud" if i % 5 == 0 else "ok" for i in range(60)]
    if source == "table":
        path = write_csv(tmp_path / "one.csv", [["a", "y"], *enumerate(names)])
    else:
        path = tmp_path / "one.npz"
        np.savez(
            path, x=np.arange(60.0)[:, None], y=[int(name == "ok") for name in names]
        )
    data = datasets.resolve(configs.Data(source, str(path), positive=positive))
    assert data.class_names[1] == positive
    found = datasets.load(data, None)
    classes = {
        float(stored): data.class_names[label]
        for part in (found.train, found.test)
        for stored, label in zip(part.inputs[:, 0], part.labels, strict=True)
    }
    given = names if source == "table" else [str(int(name == "ok")) for name in names]
    assert classes == dict(enumerate(given))


BROKEN_DATA = """
import numpy as np

number = 3

def words():
    return (np.zeros((6, 2)), ["cat", "dog"] * 3), None, None, ["cat", "dog"]

def fails():
    return np.stack([])

def twice():
    return (np.zeros((6, 2)), [0, 1, 2] * 2), None, None, ["a", "a", "c"]

def masked():
    return [(np.ma.masked_equal(np.arange(12.0).reshape(6, 2), 7), [0, 1] * 3)]
"""
DECIMAL_COMMAS = [["a", "y"], *([f"{i},5", i % 2] for i in range(20))]
STRAY = [["a", "y"], *(["-" if i == 7 else i, i % 2] for i in range(20))]
ROWS = [["a", "b", "y"], *([i, "uv"[i % 2], i % 2] for i in range(20))]
MONEY = [["a", "y"], *([f"$1,00{i % 9}", i % 2] for i in range(20))]
PERCENT = [["a", "y"], *([f"{i}.5 %", i % 2] for i in range(20))]
UNNAMED = [[i / 7, "uv"[i % 2]] for i in range(20)]
X, Y = np.zeros((9, 3)), np.arange(9) % 3
TABLE, ARRAYS = "own_table", "own_arrays"
BROKEN = {  # preset, data, exit status, and what is said
    "a path": (TABLE, None, 2, "give --data.path"),
    "the file": (TABLE, "nowhere.csv", 3, "There is no .*nowhere.csv"),
    "a cell": (TABLE, [*ROWS, [1, "u"]], 3, "line 22: expected 3 cells, got 2"),
    "a label": (TABLE, [*ROWS, [1, "u", ""]], 3, "line 22: the label.*missing"),
    "a class": (TABLE, ROWS[:2], 3, "two classes or more, got '0'"),
    "examples": (TABLE, [*ROWS, [1, "u", 2]], 2, "Class '2' has 1 example left"),
    "a number": (TABLE, [*ROWS, ["inf", "u", 1]], 3, r"most 1e\+150 .* got 'inf'"),
    "its square": (TABLE, [*ROWS, ["1e200", "u", 1]], 3, r"line 22: .* got '1e200'"),
    "a target": (
        TABLE,
        [["a", "y"], *([i, i / 7] for i in range(1, 21))],
        3,
        "20 training examples have 20 different labels, such as '0.14",
    ),
    "no test": (
        ARRAYS,
        {"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]},
        3,
        "the test set has no example",
    ),
    "a name": (ARRAYS, {"x": X, "y": ["a", "b", ""] * 3}, 3, "2: the label is missing"),
    "labels": (ARRAYS, {"x": X, "y": Y / 3}, 3, "example 1: a label must be a wh"),
    "overflow": (
        ARRAYS,
        {"x": np.full((9, 4, 4, 1), 1e39), "y": Y},
        3,
        r"example 0: an input must be finite in float32, got 1e\+39",
    ),
    "not NaN": (ARRAYS, {"x": X, "y": Y * np.nan}, 3, "example 0: the label is n"),
    "names": (ARRAYS, {"a": X}, 3, "must have arrays x_train and y_train.* got a"),
    "lengths": (ARRAYS, {"x": X, "y": Y[1:]}, 3, r"\(9, 3\) of inputs and \(8,\)"),
    "no column": (ARRAYS, {"x": X[:, :0], "y": Y}, 3, r"got the shape \(9, 0\)"),
    "images": (ARRAYS, {"x": X, "y": Y}, 2, "set model.name to 'mlp'"),
    "npz": (ARRAYS, ROWS, 3, "is no .npz or .npy file"),
    "classes": ("own_images", "pictures/digit 0", 3, "must have a subfolder for each"),
    "splits": ("own_images", "no_train", 3, "no_train has test/, val/ and no train/"),
    "function": ("own_python", "my_data:nothing", 2, "my_data has no nothing"),
    "module": (
        "own_python",
        "no_data:wine",
        2,
        "There is no module no_data to take wi",
    ),
    "colon": ("own_python", "my_data.py", 2, "is given as module:function, got 'my_da"),
    "a call": ("own_python", "broken_data:number", 2, r"be a function, got int"),
    "its line": (
        "own_python",
        "broken_data:fails",
        2,
        r"ValueError.*data.py, line 10\)",
    ),
    "numbers": ("own_python", "broken_data:words", 3, "0 ... 1 where.*, got 'cat'"),
    "masked": ("own_python", "broken_data:masked", 3, "train set: .* not be masked"),
    "two names": ("own_python", "broken_data:twice", 3, "names, got 'a' 2 times"),
    "a header": (
        TABLE,
        [["2010", "species"], *UNNAMED],
        3,
        "has numbers.* its label 'species' is no other row's.*--data.label species",
    ),
    "no header": (
        TABLE,
        UNNAMED,
        3,
        "no column 'who'; its columns are 1, 2. The first row was taken for data, beca",
        ("--data.label", "who"),
    ),
    "a quote": (
        TABLE,
        'a,y\n1,0\n"2" x,1\n',
        3,
        "one.csv, line 3: .* A cell that begins with a quote ends with one",
    ),
    "money": (TABLE, MONEY, 3, r"line 2: '\$1,000' is .*column 'a'.*without thous"),
    "percent": (TABLE, PERCENT, 3, r"line 2: '0\.5 %' is .*currency or percent"),
    "decimals": (TABLE, DECIMAL_COMMAS, 3, "line 2: '0,5' is not a number.*1234.5"),
    "commas": (TABLE, "0,5;1,5;a\n" * 9, 3, "line 1: '0,5' is not a number.*1234.5"),
    "stray": (TABLE, STRAY, 3, "line 9: '-' is.* most cells of the column 'a'.*drop a"),
    "text": ("own_text", [["text"], ["x"], ["y"]], 3, "has no column but the label"),
    "the column": (
        TABLE,
        "patients.csv",
        3,
        "no column 'who'; its columns are id, diagnosis, radius",
        ("--data.label", "who"),
    ),
    "a positive class": (
        TABLE,
        ROWS,
        2,
        "data.positive must be one of two classes, got '2' for 0, 1.",
        ("--data.positive", "2"),
    ),
    "two classes": (
        TABLE,
        [["a", "y"], *([i, i % 3] for i in range(30))],
        2,
        "data.positive must be one of two classes, got '1' for 0, 1, 2.",
        ("--data.positive", "1"),
    ),
}


@pytest.mark.parametrize("missing", BROKEN)
def test_broken_data_is_refused_before_a_run_begins(missing, tmp_path, shell):
    preset, data, status, message, *more = BROKEN[missing]
    if isinstance(data, str) and "\n" in data:
        (tmp_path / "one.csv").write_text(data)
        data = tmp_path / "one.csv"
    elif isinstance(data, list):
        data = write_csv(tmp_path / "one.csv", data)
    elif isinstance(data, dict):
        np.savez(tmp_path / "one.npz", **data)
        data = tmp_path / "one.npz"
    words = ["train", preset, "--out", str(tmp_path / "out")]
    if preset == "own_python":
        words[1:2] = ["own_table", "--data.source", "python"]
    words += [] if data is None else ["--data.path", str(data)]
    found, _, said = shell(*words, *itertools.chain(*more))
    assert found == status
    assert re.search(message, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cell", ["12", "3,5"])
def test_a_few_numbers_among_words_are_categories(cell, tmp_path):
    rows = [[cell if i % 3 == 0 else "ab"[i % 2], i % 2] for i in range(60)]
    task = _task(write_csv(tmp_path / "one.csv", [["a", "y"], *rows]))
    assert task.train.inputs.shape[1] == 3


def test_what_is_said_of_columns(tmp_path):
    path = write_csv(tmp_path / "one.csv", ROWS)
    assert datasets.load(configs.Data("table", str(path)), None).notes == (
        "Columns: 1 of numbers, 1 of categories; the label is 'y'.",
        "Columns of categories, with their numbers of values: b (2).",
    )


def test_columns_of_dates_and_files_that_are_not_used_are_named(tmp_path):
    dates = [[f"2020-01-{i + 1:02}", *row] for i, row in enumerate(ROWS[1:])]
    write_csv(tmp_path / "train.csv", [["when", *ROWS[0]], *dates])
    write_csv(tmp_path / "holdout.csv", ROWS)
    notes = datasets.load(configs.Data("table", str(tmp_path)), None).notes
    assert notes[1:] == (
        "Columns of categories, with their numbers of values: when (20), b (2).",
        "Few rows have the same value in when: what is learned of them, as of dates "
        "and ids, says nothing of other rows. --data.drop leaves columns out.",
        f"Not used, in {tmp_path}: holdout.csv.",
    )


def test_folders_that_look_like_splits_are_refused(here, tmp_path):
    for name in ("training_set", "test_set"):
        shutil.copytree(here / "pictures", tmp_path / name)
    data = configs.Data("folder", str(tmp_path), image_size=8)
    said = (
        "test_set/, training_set/, which look like splits: .* digit 0, digit 1, digit 2"
    )
    with pytest.raises(DamagedData, match=rf"{said}, .* names of splits are dev, test"):
        datasets.load(data, None)
    (tmp_path / "training_set").rename(tmp_path / "train")
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    for name in ("a.heic", "b.HEIC", "c", ".DS_Store"):
        (tmp_path / "train" / "digit 0" / name).touch()
    loaded = datasets.load(data, None)
    assert loaded.notes == (
        f"Not used, in {tmp_path}: test_set/.",
        f"Not used, below {tmp_path}: files with the ending .heic (2), none (1).",
    )
    assert loaded.contents.class_names == ("digit 0", "digit 1", "digit 2")


@pytest.mark.parametrize("refuse", [
    lambda path: checkpoint.Checkpoints(path / "a\udcff", keep=2, log=print),
    lambda path: file_names(["a/1.png", "a/\udcff.png"]),
    lambda path: own.dataset(
        {"train": own.Part(np.zeros((4, 2)), ["a\udcff", "b"] * 2, str)},
        configs.Data("table", path=str(path)), "table",
    ),
])  # fmt: skip
def test_names_that_are_not_utf8_are_refused_where_they_cannot_be(refuse, tmp_path):
    kinds = (DamagedData, configs.BadConfiguration)
    with pytest.raises(kinds, match=r"udcff.* is not UTF-8"):
        refuse(tmp_path)


def test_an_image_that_is_none_is_named(here, tmp_path, shell):
    """Before anything is compiled of the step: it is in the first batch."""
    for split in ("train", "test"):
        shutil.copytree(here / "pictures", tmp_path / "pictures" / split)
    *_, target = (tmp_path / "pictures" / "train").glob("*/*.png")
    target.write_text("no image")
    words = ["train", "own_images", "--data.path", tmp_path / "pictures"]
    words += ["--workers", "0", "--data.validation-share", "0"]
    words += ["--data.image-size", "32", "--model.widths", "4", "--epochs", "1"]
    shell.refused(3, f"{target}: no image", *words, "--out", tmp_path / "out")


def test_presets_of_your_own_data_are_listed_first_and_need_a_path(capsys):
    lines = presets.listing().splitlines()
    families = [after for line, after in itertools.pairwise(lines) if not line]
    assert families[1].startswith("Your own data")  # after what a newcomer wants
    assert "--data.path PATH" in presets.get("own_images").command
    with pytest.raises(presets.UnknownPreset, match="Did you mean own_table"):
        presets.get("own_tabel")
    with pytest.raises(ValueError, match=r"For your own data only.*path"):
        configs.Data(test_per_class=1, path="x.csv")


# Predictions of other files.


@pytest.fixture
def predicted(shell):
    """A command's columns, and what it gives the last two classes, `[rows, 2]`."""

    def of(*arguments):
        found = programs.rows(shell.printed("predict", *arguments))
        names = list(found[0])
        values = [[float(row[name]) for name in names[-2:]] for row in found]
        return names, np.array(values)

    return of


def test_rows_without_labels_are_prepared_as_those_of_the_test_set(
    here, trained, tmp_path, predicted
):
    out = trained[0] / "patients"
    head, expected = predicted(out)
    assert head == ["index", "label", "predicted", "benign", "malignant"]
    with (here / "patients.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    # No label and no id, and the columns in another order.
    other = write_csv(tmp_path / "other.csv", [row[:1:-1] for row in rows])
    head, found = predicted(out, other)
    assert head == ["index", "predicted", "benign", "malignant"]
    assert len(found) == len(rows) - 1
    assert {*map(tuple, expected)} <= {*map(tuple, found)}


NUMBERED = [[i % 2, 0.1 * i, "uv"[i % 2], 5.0 - i, f"id {i}"] for i in range(30)]
NUMBERED_DATA = {"label": "1", "drop": ("5",)}


@pytest.mark.parametrize("words_first", [False, True])
def test_columns_without_header_are_the_same_without_the_label(words_first, tmp_path):
    rows = [row[:1] + row[2:3] for row in NUMBERED] if words_first else NUMBERED
    fields = {"label": "1"} if words_first else NUMBERED_DATA
    path = write_csv(tmp_path / "one.csv", rows)
    data = datasets.resolve(configs.Data("table", str(path), **fields))
    prepare = load_task(data, 0).prepare
    other = write_csv(tmp_path / "other.csv", [row[1:] for row in rows])
    found, expected = (inputs.load(p, data, prepare).examples for p in (other, path))
    assert len(found.labels) == len(rows)
    np.testing.assert_array_equal(found.inputs, expected.inputs)


@pytest.mark.parametrize("keep", [slice(1, 4), slice(2, 5), slice(0, 3)])
def test_another_number_of_columns_without_header_is_refused(keep, tmp_path):
    path = write_csv(tmp_path / "one" / "train.csv", NUMBERED)
    data = datasets.resolve(configs.Data("table", str(path), **NUMBERED_DATA))
    other = write_csv(tmp_path / "one" / "test.csv", [row[keep] for row in NUMBERED])
    said = (
        r"test.csv has 3 columns: without a header, it must have the 5 of .*train.csv"
    )
    with pytest.raises(DamagedData, match=rf"{said}, or without the label's, 1, in"):
        inputs.load(other, data)
    with pytest.raises(DamagedData, match=f"{said} in their order"):
        datasets.load(configs.Data("table", str(path.parent), **NUMBERED_DATA), None)


ARRAYS_TRAINED_ON = {
    "grey bytes": {"x": (40, 6, 5)},
    "channels first": {"Images_Train": (40, 3, 6, 5), "labels_train": None},
    "grey floats": {"data": (40, 6, 5)},
    "floats, channels first": {"features": (40, 3, 6, 5)},
    "vectors": {"inputs": (40, 7)},
}


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("kind", ARRAYS_TRAINED_ON)
def test_arrays_that_were_trained_on_are_predicted(kind, in_folder, tmp_path):
    ((name, shape), *_) = ARRAYS_TRAINED_ON[kind].items()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    if "floats" in kind or kind == "vectors":
        x = x + rng.normal(size=shape)
    y = "labels_train" if "Train" in name else "y"
    path = tmp_path / "arrays" if in_folder else tmp_path / "arrays.npz"
    if in_folder:
        path.mkdir()
        np.save(path / f"{name}.npy", x)
        np.save(path / f"{y}.npy", np.arange(40) % 2)
    else:
        np.savez(path, **{name: x, y: np.arange(40) % 2})
    data = datasets.resolve(configs.Data("arrays", str(path)))
    task = load_task(data, 0)
    found = inputs.load(path, data, task.prepare).examples.inputs
    np.testing.assert_array_equal(found[task.rows], task.train.inputs)


@pytest.mark.parametrize("trained_on", ["fractions", "numbers up to 255"])
def test_arrays_of_another_scale_than_the_training_set_are_not_predicted(
    trained_on, tmp_path
):
    bytes_ = np.random.default_rng(0).integers(0, 256, (40, 6, 5)).astype(np.uint8)
    fractions = bytes_ / np.float32(255)
    in_fractions = trained_on == "fractions"
    x = fractions if in_fractions else bytes_.astype(np.float32)
    same, other = (fractions, bytes_) if in_fractions else (bytes_, fractions)
    np.savez(tmp_path / "trained.npz", x=x, y=np.arange(40) % 2)
    data = datasets.resolve(configs.Data("arrays", str(tmp_path / "trained.npz")))
    prepare = load_task(data, 0).prepare
    for name, array in (("same", same), ("other", other)):
        np.save(tmp_path / f"{name}.npy", array)
    assert len(inputs.load(tmp_path / "same.npy", data, prepare).examples.labels) == 40
    said = r"other\.npy must be of the scale of the training set, but .* to 255, and "
    with pytest.raises(DamagedData, match=said):
        inputs.load(tmp_path / "other.npy", data, prepare)


def test_files_are_not_read_as_images_of_other_channels(here):
    contents = configs.Contents("images", (8, 8, 4), ("a", "b"))
    data = configs.Data("arrays", "x.npz", contents=contents)
    said = r"images of 4: give them as arrays, \[n, 8, 8, 4\]"
    with pytest.raises(DamagedData, match=said):
        inputs.load(here / "pictures", data)


def _by_the_readme(run, raw, read):
    """Probabilities of raw values, by the code of README.txt, which imports no Flax."""
    if not (run / "export").is_dir():
        assert cli.main(["export", str(run)]) == 0
    readme = (run / "export" / "README.txt").read_text(encoding="utf-8")
    (code,) = re.findall(r"TPU:\n\n((?:    .*\n|\n)+)", readme)
    names = {"csv": csv, "np": np, "raw": raw}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(run / "export")
        for module in [*sys.modules]:
            if module.partition(".")[0] in ("absgd_jax", "experiments", "flax"):
                patched.setitem(sys.modules, module, None)  # cannot be imported
        exec(f"{read}\n{textwrap.dedent(code)}", names)
    return names["probabilities"]


def test_an_exported_table_takes_raw_rows(here, trained, tmp_path, predicted):
    """Missing numbers, unknown categories, and some that were only held out."""
    out = trained[0] / "patients"
    rows = programs.rows((here / "patients.csv").read_text("utf-8"))
    rows += [row | {"shape": "square", "ward": "?", "area": "NA"} for row in rows[:2]]
    names = [name for name in rows[0] if name != "diagnosis"][::-1]
    raw = [[row[name] for name in names] for row in rows]
    raw = write_csv(tmp_path / "raw.csv", [names, *raw])
    read = (
        "with open(raw, encoding='utf-8', newline='') as file:\n"
        "    rows = list(csv.DictReader(file))"
    )
    found = _by_the_readme(out, raw, read)
    np.testing.assert_allclose(found, predicted(out, raw)[1], atol=2e-6)
    prepare = json.loads((out / "export" / "prepare.json").read_text("utf-8"))
    columns = {column["name"]: column for column in prepare["columns"]}
    of_ward = columns["ward"]["categories"]
    assert None in of_ward  # held out
    assert "ward 1" in of_ward
    shape = run_dir.load(out).run.data.contents.shape
    assert shape == (3 + 2 + len(of_ward),)


def test_exported_vectors_are_prepared_by_the_readme(here, trained, tmp_path, shell):
    out = trained[0] / "vectors"
    with np.load(here / "vectors.npz") as arrays:
        np.save(tmp_path / "raw.npy", arrays["x"][:50])
    found = _by_the_readme(out, tmp_path / "raw.npy", "examples = np.load(raw)")
    rows = programs.rows(shell.printed("predict", out, tmp_path / "raw.npy"))
    expected = [[float(row[str(k)]) for k in range(10)] for row in rows]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_exported_texts_are_tokenized_by_the_readme(trained, tmp_path, predicted):
    out = trained[0] / "reviews"
    texts = [*GOOD, "It's<br />NOT a\tfilm. Élan! 3 awful-good", "", "a dull film " * 9]
    write_csv(tmp_path / "raw.csv", [("text",), *((text,) for text in texts)])
    found = _by_the_readme(out, texts, "texts = raw")
    _, expected = predicted(out, tmp_path / "raw.csv")
    np.testing.assert_allclose(found, expected, atol=2e-6)
