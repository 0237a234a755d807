"""Data sets as they lie on disk: read right, and refused where they are wrong."""

import dataclasses
import hashlib
import itertools
import json
import math
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import configs, registry
from experiments.data import (
    cifar,
    covid,
    datasets,
    image_lists,
    imbalance,
    imdb,
    listing,
    text,
    tfds,
)
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.data.types import DamagedData, Examples, Files, MissingData
from tests import trees

PUBLISHED = [source for source, info in registry.DATASETS.items() if not info.own]
FILES = [source for source in PUBLISHED if registry.DATASETS[source].files]
LISTS = ["imagenet_lt", "places_lt", "inaturalist18"]


def data(source, *, partial=True, **fields):
    if registry.DATASETS[source].files:
        fields = {"image_size": 32, **fields}
    if source == "covid_lt":
        fields = {"imbalance_ratio": 10.0, **fields}
    return configs.Data(source=source, partial=partial, **fields)


def missing(source, data_dir, **fields):
    """What is said when a data set is not there."""
    return damaged(source, data_dir, MissingData, **fields)


def damaged(source, data_dir, error=DamagedData, download=False, **fields):
    """What is said when a data set is not what it should be."""
    with pytest.raises(error) as raised:
        datasets.load(data(source, **fields), data_dir, download=download)
    return str(raised.value)


def listed(examples):
    """Paths with labels."""
    return list(
        zip(map(str, examples.inputs.paths), examples.labels.tolist(), strict=True)
    )


# --- What all have in common ---


def test_files_are_indexed_as_a_vector_is(tmp_path):
    names = np.array(["a.jpg", "b/c.jpg", "d.jpg", "é.jpg"])
    lines = np.array([1, 2, 4, 5])
    files = Files(tmp_path, names.astype(np.dtypes.StringDType()), "list.txt", lines)
    assert len(files) == 4
    for index in (
        np.array([3, 1, 1]),
        slice(1, 3),
        np.array([True, False, True, False]),
        np.array([], np.int64),
        2,
        -1,
    ):
        part = files[index]
        assert list(part.paths) == list(np.atleast_1d(names[index]))
        assert list(part.lines) == list(np.atleast_1d(lines[index]))
        assert part.root == tmp_path
    assert files.path(1) == tmp_path / "b" / "c.jpg"
    copy = pickle.loads(pickle.dumps(files[[1, 3]]))  # for processes that decode
    assert copy.where(1) == f"{tmp_path / 'é.jpg'} (list.txt, line 5)"
    taken = Examples(files, np.arange(4)).take(np.array([2, 0]))
    assert listed(taken) == [("d.jpg", 2), ("a.jpg", 0)]


def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path):
    trees.write_lines(tmp_path / "list.txt", ["a.jpg 0", "b.jpg 1"])
    (tmp_path / "a.jpg").write_bytes(b"content")
    files = listing.read(tmp_path / "list.txt", 2).inputs
    assert files.read(0) == b"content"
    with pytest.raises(DamagedData, match=r"b\.jpg .*list\.txt, line 2"):
        files.read(1)


def test_digits_need_no_directory():
    loaded = datasets.load(configs.Data(test_per_class=50), None)
    examples = digits()
    assert loaded.test is None
    assert loaded.validation is None
    np.testing.assert_array_equal(loaded.train.inputs, examples.inputs)
    assert examples.inputs.shape == (1797, 8, 8, 1)
    assert examples.inputs.dtype == np.float32
    assert (examples.inputs.min(), examples.inputs.max()) == (0.0, 1.0)
    assert examples.labels.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        examples.inputs[0] = 0.0


@pytest.mark.parametrize(
    "source", [source for source in PUBLISHED if source != "digits"]
)
def test_what_is_not_there_is_asked_for(source, tmp_path):
    assert "--data-dir" in missing(source, None)
    said = missing(source, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said
    asked = "must hold" if registry.DATASETS[source].files else "tfds.builder"
    assert asked in said


@pytest.mark.parametrize("source", FILES)
def test_every_set_of_files_has_labels_and_images(source, tmp_path):
    loaded = datasets.load(data(source), trees.build(source, tmp_path))
    splits = (loaded.train, loaded.test, loaded.validation)
    for split in (one for one in splits if one is not None):
        assert split.labels.dtype == np.int32
        assert len(split.inputs) == len(split.labels) > 0
        assert split.inputs.read(len(split.labels) - 1)[:2] in (b"\xff\xd8", b"\x89P")
    # A part is refused unless it is asked for.
    assert "data.partial" in damaged(source, tmp_path, partial=False)


# --- CIFAR ---


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar10")
    return root, trees.tfds_cifar(root)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_cifar_comes_in_the_official_order_from_tfds_and_binary_files(source, tmp_path):
    truth = trees.tfds_cifar(tmp_path / "tfds", source, train=4, test=2, seed=1)
    trees.binary_cifar(tmp_path / "binary", source, truth)
    for form in ("tfds", "binary"):
        loaded = datasets.load(data(source), tmp_path / form)
        assert loaded.validation is None
        for split, (images, labels) in zip(loaded, truth.values(), strict=False):
            assert split.inputs.dtype == np.uint8
            assert split.labels.dtype == np.int32
            np.testing.assert_array_equal(split.inputs, images)
            np.testing.assert_array_equal(split.labels, labels)


def test_damaged_binary_files_of_cifar_are_refused(cifar10, tmp_path):
    folder = trees.binary_cifar(tmp_path, "cifar10", cifar10[1])
    assert "has 200 examples" in damaged("cifar10", tmp_path, partial=False)
    whole = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(whole[:-1])
    said = damaged("cifar10", tmp_path)
    assert "test_batch.bin" in said
    assert "3,073" in said
    (folder / "test_batch.bin").write_bytes(b"\x0c" + whole[1:])
    assert "example 0: the label must be in 0 ... 9, got 12" in damaged(
        "cifar10", tmp_path
    )
    (folder / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin" in missing("cifar10", tmp_path)


def test_the_newest_version_is_read(cifar10, tmp_path):
    shutil.copytree(cifar10[0], tmp_path, dirs_exist_ok=True)
    truth = trees.tfds_cifar(tmp_path, train=2, test=1, version="3.0.10", seed=9)
    (tmp_path / "cifar10" / "3.1.0").mkdir()  # an interrupted preparation
    loaded = datasets.load(data("cifar10"), tmp_path, download=True)
    np.testing.assert_array_equal(loaded.train.labels, truth["train"][1])


def _as_published(monkeypatch, truth):
    """Makes a small set the published one."""
    for split, (images, labels) in truth.items():
        monkeypatch.setitem(cifar._COUNTS, split, len(labels))
        digest = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes())
        monkeypatch.setitem(cifar._DIGESTS["cifar10"], split, digest.hexdigest())
    mean = (truth["train"][0] / 255).mean(axis=(0, 1, 2))
    monkeypatch.setitem(cifar._MEANS, "cifar100", tuple(mean.round(4)))


def test_the_whole_of_cifar_is_held_to_counts_and_checksum(
    cifar10, tmp_path, monkeypatch
):
    root, truth = cifar10
    said = damaged("cifar10", root, partial=False)
    assert "has 200 examples, published are 50,000" in said

    _as_published(monkeypatch, truth)
    loaded = datasets.load(data("cifar10", partial=False), root)
    np.testing.assert_array_equal(loaded.test.labels, truth["test"][1])

    other = trees.tfds_cifar(tmp_path / "other", seed=5)
    assert "SHA-256" in damaged("cifar10", tmp_path / "other", partial=False)
    assert not (other["train"][0] == truth["train"][0]).all()

    for name, change, said in (
        ("label", {"label": int(truth["train"][1][0] + 1) % 10}, "published are 20."),
        ("gap", {"id": b"train_00200"}, "must be train_00000 to train_00199"),
    ):
        _write(tmp_path / name, _splits(truth, change, row=0))
        assert said in damaged("cifar10", tmp_path / name, partial=False)


def test_cifar100_is_held_to_the_mean_of_its_pixels(tmp_path, monkeypatch):
    truth = trees.tfds_cifar(tmp_path, "cifar100", train=2, test=1)
    _as_published(monkeypatch, truth)
    datasets.load(data("cifar100", partial=False), tmp_path)
    monkeypatch.setitem(cifar._MEANS, "cifar100", (0.5071, 0.4865, 0.4409))
    said = damaged("cifar100", tmp_path, partial=False)
    assert "published is [0.5071, 0.4865, 0.4409]" in said


def _splits(truth, change=None, row=7):
    """Records of CIFAR-10, one of the training set spoilt."""
    splits = {
        split: trees.cifar_rows(split, *arrays) for split, arrays in truth.items()
    }
    splits["train"][row] |= change or {}
    return splits


def _write(root, splits, features=trees.CIFAR10_FEATURES):
    trees.write_tfds(root / "cifar10" / "3.0.2", "cifar10", splits, features)


HUGE = trees.encode(np.zeros((64, 32, 3), np.uint8), "PNG")
GREY = trees.encode(np.zeros((32, 32), np.uint8), "PNG")
JPEG = trees.encode(np.zeros((32, 32, 3), np.uint8), "JPEG")
DRAWN = trees.encode(trees.colourful(3, 10, (32, 32), np.random.default_rng(0)), "PNG")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"label": 10}, r"train_00007: the label must be in 0 \.\.\. 9, got 10"),
        ({"label": -1}, r"train_00007: the label must be in 0 \.\.\. 9, got -1"),
        ({"id": b"test_00007"}, r"expected an id as train_00042, got b'test_00007'"),
        ({"id": b"7"}, r"expected an id as train_00042, got b'7'"),
        ({"id": b"train_00003"}, r"two records have the id train_00003"),
        ({"image": HUGE}, r"train_00007: the image must be 32 × 32 × 3, got 64 × 32 ×"),
        ({"image": GREY}, r"train_00007: the image must be 32 × 32 × 3, got 32 × 32 ×"),
        ({"image": JPEG}, r"train_00007: the image cannot be decoded"),
        ({"image": HUGE[:70]}, r"train_00007: the image"),
        ({"image": b""}, r"train_00007: the image cannot be decoded"),
        ({"image": DRAWN[:-200]}, r"train_00007: the image cannot be decoded"),
    ],
)
def test_a_damaged_record_of_cifar_is_named(cifar10, tmp_path, row, said):
    _write(tmp_path, _splits(cifar10[1], row))
    assert re.search(said, damaged("cifar10", tmp_path))


TEXT = trees._feature("text_feature.Text", text={})


def _rows(splits, change):
    """The same splits, of other rows."""
    return {split: [change(row) for row in rows] for split, rows in splits.items()}


@pytest.mark.parametrize(
    ("spoil", "features", "said"),
    [
        (lambda splits: {"train": splits["train"]}, None, "no split 'test'"),
        (lambda splits: {"train": [], "test": []}, None, "'train' is empty"),
        (
            lambda splits: _rows(splits, lambda row: {"label": row["label"]}),
            {"label": trees._label(10)},
            "no feature 'id'",
        ),
        (
            lambda splits: _rows(splits, lambda row: {**row, "label": b"cat"}),
            dict.fromkeys(["id", "image", "label"], TEXT),
            "label must be int, got bytes",
        ),
    ],
)
def test_damaged_tfds_directories_are_named(cifar10, tmp_path, spoil, features, said):
    splits = spoil(_splits(cifar10[1]))
    _write(tmp_path, splits, features or trees.CIFAR10_FEATURES)
    assert said in damaged("cifar10", tmp_path)


FIRST, SECOND = (f"cifar10-train.array_record-0000{i}-of-00002" for i in (0, 1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (SECOND, None),  # not there
        (SECOND, lambda before: before[:70_000]),
        (FIRST, lambda before: b""),
        ("features.json", lambda before: b"{"),
        ("features.json", None),
        ("dataset_info.json", lambda before: b"{"),
        ("dataset_info.json", lambda before: b'{"splits": 3}'),
    ],
)
def test_spoilt_files_of_tfds_are_refused(cifar10, tmp_path, name, content):
    shutil.copytree(cifar10[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "cifar10" / "3.0.2" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content(file.read_bytes()))
    assert str(file.parent) in damaged("cifar10", tmp_path)


def test_another_record_format_is_to_be_converted(cifar10, tmp_path):
    shutil.copytree(cifar10[0], tmp_path, dirs_exist_ok=True)
    info = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    said = missing("cifar10", tmp_path)
    assert "records as tfrecord" in said
    assert f"--dataset_version_dir={info.parent} --out_file_format=array_record" in said
    # As the conversion in place leaves it.
    both = {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    info.write_text(json.dumps(content | both))
    loaded = datasets.load(data("cifar10"), tmp_path)
    np.testing.assert_array_equal(loaded.train.labels, cifar10[1]["train"][1])


def test_download_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    said = missing("cifar100", tmp_path, download=True)
    assert "needs TensorFlow" in said
    assert f"tfds.builder('cifar100', data_dir='{tmp_path}'" in said
    assert list(tmp_path.iterdir()) == []


def test_a_failing_download_is_reported(tmp_path, monkeypatch):
    # Whether TensorFlow is there or not: what is asked for cannot be written.
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: name)
    file = tmp_path / "file"
    file.write_text("in the way")
    said = missing("imdb", file, download=True)
    assert f"could not prepare imdb_reviews/plain_text in {file}: " in said


# --- IMDB ---


def _oracle(string):
    """Words, letter by letter."""
    string = string.lower()
    for mark in ("<br />", "<br/>", "<br>"):
        string = string.replace(mark, " ")
    found, word = [], ""
    for i, letter in enumerate(string + " "):
        inside = letter.isalnum() or letter == "_"
        after = i + 1 < len(string) and (
            string[i + 1].isalnum() or string[i + 1] == "_"
        )
        if inside or (letter == "'" and word and after):
            word += letter
        elif word:
            found.append(word)
            word = ""
    return found


PIECES = ["a", "B", "é", "_", "1", "'", ".", " ", "\n", "<br />", "<br>"]
REVIEWS = st.lists(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join), min_size=1, max_size=6
)


@given(texts=REVIEWS, size=st.integers(1, 8), length=st.integers(1, 6))
def test_words_and_their_numbers(texts, size, length):
    tokens = [_oracle(one) for one in texts]
    assert [text.words(one) for one in texts] == tokens
    every = [word for one in tokens for word in one]
    ranked = sorted(set(every), key=lambda word: (-every.count(word), word))[:size]
    assert text.vocabulary(texts, size) == ranked
    table = text.Tokenizer(ranked, length)(texts)
    assert table.shape == (len(texts), length)
    assert table.dtype == np.int32
    for row, words in zip(table, tokens, strict=True):
        expected = [ranked.index(w) + 2 if w in ranked else 1 for w in words]
        expected = ([0] * length + expected)[-length:]
        assert row.tolist() == expected


def test_reviews_keep_their_order_and_their_ends(tmp_path):
    truth = trees.tfds_imdb(tmp_path, seed=2)
    loaded = datasets.load(data("imdb", vocabulary=6, length=12), tmp_path)
    known = text.vocabulary(truth["train"][0], 6)  # of the training text alone
    assert loaded.validation is None
    for split, (texts, labels) in zip(loaded, truth.values(), strict=False):
        np.testing.assert_array_equal(split.labels, labels)
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.inputs, text.Tokenizer(known, 12)(texts))
    assert loaded.train.inputs.max() == 7
    assert loaded.train.inputs[:, -1].min() > 0


def test_imdb_is_held_to_its_counts(tmp_path, monkeypatch):
    trees.tfds_imdb(tmp_path, train=10, test=10)
    said = damaged("imdb", tmp_path, partial=False)
    assert "has 10 negative and 10 positive reviews, published are 12,500" in said
    monkeypatch.setattr(imdb, "_COUNT", 20)
    datasets.load(data("imdb", partial=False), tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": b"good", "label": 2}, r"record 1: the label must be in 0 \.\.\. 1"),
        ({"text": b"\xff", "label": 1}, r"record 1: .*can't decode"),
    ],
)
def test_a_damaged_review_is_named(tmp_path, row, said):
    rows = [{"text": b"fine", "label": 1}, row]
    directory = tmp_path / "imdb_reviews" / "plain_text" / "1.0.0"
    features = {"text": TEXT, "label": trees._label(2)}
    splits = {"train": rows, "test": rows[:1]}
    trees.write_tfds(directory, "imdb_reviews", splits, features, config="plain_text")
    assert re.search(said, damaged("imdb", tmp_path))


# --- Lists of files ---


@pytest.mark.parametrize("source", [*LISTS, "clothing1m", "annotations"])
def test_lists_are_read_as_they_stand(source, tmp_path):
    """Clothing1M's too; annotations of iNaturalist do for lists."""
    as_json = source == "annotations"
    if as_json:
        source, entries = LISTS[2], trees.inaturalist18(tmp_path, as_json=True)
    else:
        entries = getattr(trees, source)(tmp_path)
    train, *validation, test = entries.values()
    loaded = datasets.load(data(source), tmp_path)
    assert listed(loaded.train) == train
    assert listed(loaded.test) == test
    assert [listed(one) for one in [loaded.validation] if one] == validation
    assert loaded.train.inputs.root == tmp_path / source
    if as_json:
        assert loaded.train.inputs.lines is None
        assert "train2018.json" in loaded.train.inputs.where(0)
    else:
        assert loaded.train.inputs.lines.tolist() == list(range(1, len(train) + 1))


def line(text):
    """A further line 4."""

    def spoil(content):
        lines = content.splitlines()
        return "".join(f"{one}\n" for one in [*lines[:3], text, *lines[3:]])

    return spoil


def swap(before, after, count=1):
    """Other text in the place of some that is there."""

    def spoil(content):
        assert before in content
        return content.replace(before, after, count)

    return spoil


JSON = ("inaturalist18", "train2018.json")
IMAGENET = ("imagenet_lt", "ImageNet_LT_train.txt")
PLACES, VALIDATION = (("places_lt", f"Places_LT_{one}.txt") for one in ("train", "val"))
KEYS, TESTED = (
    ("clothing1m", f"{one}_key_list.txt") for one in ("noisy_train", "clean_test")
)
NOISY, CLEAN = (("clothing1m", f"{one}_label_kv.txt") for one in ("noisy", "clean"))
CHEXPERT, COHEN = (("covid_lt", name) for name in covid._LISTS)
FIRST_OF_PLACES = "train/scene_0/00000001.jpg"
FIRST_OF_CLEAN_VAL = "images/2/0/0000000112,784.jpg"
OUTSIDE = "the path must stay below the data set's directory, got "


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        (JSON, lambda content: content[:-1], "line 1"),
        (JSON, lambda content: "[]", "an object with 'annotations', list"),
        (JSON, swap('"file_name"', '"name"'), "with 'file_name', str"),
        (JSON, swap('"image_id": 100', '"image_id": 1'), ".. 8141, got N"),
        (JSON, swap('"category_id": 0', '"category_id": 8142', -1), "got 8142"),
        (JSON, swap('"category_id": 0', '"category_id": "0"'), "_id', int"),
        (JSON, swap("train_val2018/Aves", ".."), OUTSIDE),
        (IMAGENET, line("a.JPEG"), "4: expected `path label`, got 'a.JPEG'"),
        (IMAGENET, line("a.JPEG x"), "4: expected `path label`, got 'a.JPEG x'"),
        (IMAGENET, line("a.JPEG -1"), "4: expected `path label`, got 'a.JPEG -1'"),
        (IMAGENET, line("a.JPEG 1.0"), "4: expected `path label`, got"),
        (IMAGENET, line("a.JPEG ٣"), "4: expected `path label`, got"),
        (IMAGENET, line("a.JPEG " + "9" * 5000), "4: expected `path label`, got"),
        (IMAGENET, line(" 3"), "4: expected `path label`, got ' 3'"),
        (IMAGENET, line(""), "4: expected `path label`, got ''"),
        (IMAGENET, line("a.JPEG 1000"), "4: the label must be in 0 ... 999, got 'a.J"),
        (IMAGENET, line("../a.JPEG 1"), f"4: {OUTSIDE}'../a.JPEG'"),
        (IMAGENET, line("train/../../a.JPEG 1"), f"4: {OUTSIDE}"),
        (IMAGENET, line("train/.. 1"), f"4: {OUTSIDE}"),
        (IMAGENET, line("/etc/hosts 1"), f"4: {OUTSIDE}'/etc/hosts'"),
        (IMAGENET, line("..\\a.JPEG 1"), f"4: {OUTSIDE}"),
        (IMAGENET, line("train/a\0.JPEG 1"), f"4: {OUTSIDE}"),
        (PLACES, line(f"{FIRST_OF_PLACES} 0"), f"4: '{FIRST_OF_PLACES}' is in"),
        (VALIDATION, line(f"{FIRST_OF_PLACES} 0"), "Places_LT_train.txt already"),
        (VALIDATION, lambda content: "", "lists no image"),
        (VALIDATION, lambda content: b"val/a.jpg 1\n\xff\xfe\n", "is not text"),
        (KEYS, line("images/0/no.jpg"), "4: 'images/0/no.jpg' has no label in noisy_l"),
        (KEYS, line("../a.jpg"), f"4: {OUTSIDE}"),
        (KEYS, line(""), f"4: {OUTSIDE}"),
        (TESTED, line(FIRST_OF_CLEAN_VAL), f"4: '{FIRST_OF_CLEAN_VAL}' is in"),
        (CLEAN, line("images/0/a.jpg 14"), "4: the label must be in 0 ... 13"),
        (NOISY, line("images/0/a.jpg"), "4: expected `path label`"),
        (CHEXPERT, swap("Pneumonia\n", "Pneumonitis\n"), "1: there is no column 'Pneu"),
        (CHEXPERT, swap(",1.0,1.0,\n", ",2.0,1.0,\n"), "must be empty, 1.0, 0.0 or -1"),
        (CHEXPERT, swap("/train/patient", "/valid/patient"), "a path as CheXpert-v1.0"),
        (CHEXPERT, swap("/study1/", "/../"), OUTSIDE),
        (COHEN, swap("filename", "file"), "line 1: there is no column 'filename'"),
        (COHEN, swap(",case-2.png,", ",../case-2.png,"), OUTSIDE),
        (COHEN, swap(",case-2.png,", ",case-0.png,"), "case-0.png' is in"),
        (COHEN, swap("Two", "x" * 140_000), "is not a CSV file: field larger"),
        (COHEN, swap("1000,Pneumonia", "1000\n1000,Pneumonia"), "2: the row is too sh"),
    ],
)  # fmt: skip
def test_a_spoilt_list_is_named_with_the_line(tmp_path, file, spoil, said):
    source, name = file
    options = {"as_json": True} if file == JSON else {}
    getattr(trees, source)(tmp_path, **options)
    path = tmp_path / source / name
    content = spoil(path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = damaged(source, tmp_path)
    assert error.startswith(str(path))
    assert said in error


def test_dots_and_spaces_in_names_are_no_escape(tmp_path):
    trees.write_lines(tmp_path / "list.txt", ["a..b/.c d.jpg 1", "...jpg 0"])
    paths = listing.read(tmp_path / "list.txt", 2).inputs.paths.tolist()
    assert paths == ["a..b/.c d.jpg", "...jpg"]


def test_missing_images_are_found_before_training(tmp_path):
    entries = trees.imagenet_lt(tmp_path)
    path, _ = entries["ImageNet_LT_test.txt"][4]
    (tmp_path / "imagenet_lt" / path).unlink()
    said = missing("imagenet_lt", tmp_path)
    assert (
        f"{path} ({tmp_path / 'imagenet_lt' / 'ImageNet_LT_test.txt'}, line 5)" in said
    )
    assert "1 of the 18 images" in said
    file = tmp_path / "imagenet_lt" / "ImageNet_LT_val.txt"
    file.unlink()
    assert f"{file} is not there" in missing("imagenet_lt", tmp_path)


def test_the_first_image_of_every_class_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_LOOKED_FOR", 3)
    for missed in (4, 17, 33):  # more than a sample of three can hit by chance
        labels = np.zeros(40, np.int32)
        labels[missed] = 1
        root = tmp_path / str(missed)
        root.mkdir()
        paths = [f"{i}.jpg" for i in range(40)]
        for i in set(range(40)) - {missed}:
            (root / paths[i]).touch()
        one = listing.examples(root / "list.txt", paths, labels, range(1, 41))
        with pytest.raises(MissingData, match=f"line {missed + 1}"):
            listing.refuse_missing_images(one, "images")


def _whole_places(root):
    """The lists of Places-LT as large as they are, without images."""
    rest = 62_500 - 4980 - 5
    counts = [4980, *[rest // 363 + (i < rest % 363) for i in range(363)], 5]
    root = root / "places_lt"
    root.mkdir()
    for name, directory, counted in (
        ("Places_LT_train.txt", "train", counts),
        ("Places_LT_val.txt", "val", [20] * 365),
        ("Places_LT_test.txt", "test", [100] * 365),
    ):
        trees.write_lines(
            root / name,
            [
                f"{directory}/{label}/{i}.jpg {label}"
                for label, count in enumerate(counted)
                for i in range(count)
            ],
        )
    return root


def test_whole_lists_are_held_to_their_counts(tmp_path):
    root = _whole_places(tmp_path)
    # All is well with the lists; now for the images.
    assert "images that were looked for are not there" in missing(
        "places_lt", tmp_path, partial=False
    )
    train = root / "Places_LT_train.txt"
    lines = train.read_text().splitlines()
    trees.write_lines(train, lines[:-1])
    said = damaged("places_lt", tmp_path, partial=False)
    assert f"{train} lists 62,499 images, the published list 62,500" in said
    trees.write_lines(train, [*lines[:-1], "train/7/more.jpg 7"])
    said = damaged("places_lt", tmp_path, partial=False)
    assert "lists 4 images of class 364; the published list has 5 to 4,980" in said


@pytest.mark.parametrize("source", LISTS)
def test_published_counts_agree_with_each_other(source):
    """Counts of classes that cannot add up to the lines would refuse every list."""
    classes = registry.DATASETS[source].classes
    published = image_lists._SETS[source]
    for part in (published.train, published.validation, published.test):
        if part is not None and part.least is not None:
            assert classes * part.least <= part.images <= classes * part.most


# --- COVID-LT ---


def _patient(path):
    found = re.search(r"patient\d+", path)
    return found[0] if found else None


def test_covid_is_a_long_tail_by_patient(tmp_path):
    truth = trees.covid_lt(tmp_path)
    loaded = datasets.load(data("covid_lt", imbalance_ratio=100.0), tmp_path)
    train, test = dict(listed(loaded.train)), dict(listed(loaded.test))
    assert loaded.validation is None
    assert (train | test).items() <= truth.items()  # the right class; no CT, no SARS
    assert np.bincount(list(test.values())).tolist() == [4] * 4
    counts = np.bincount(list(train.values())).tolist()
    assert counts == imbalance.long_tail_counts(counts[0], 4, 100)
    assert counts[-1] == 1
    tested = {_patient(path) for path in test} - {None}
    assert tested
    assert tested.isdisjoint(_patient(path) for path in train)


def test_patients_of_the_covid_collection_are_not_shared(tmp_path):
    # Pairs of X-rays for each patient, and no other class to be scarce.
    trees.covid_lt(tmp_path, other=60, normal=60, pneumonia=60, covid=48)
    loaded = datasets.load(data("covid_lt", imbalance_ratio=1.0), tmp_path)
    file = tmp_path / "covid_lt" / "covid-chestxray-dataset" / "metadata.csv"
    owners = {}
    for line in re.findall(
        r"^(\d+),Pneumonia.*?,images,(.*?),", file.read_text(), re.M
    ):
        owners[f"covid-chestxray-dataset/images/{line[1]}"] = line[0]
    sides = [
        {owners[path] for path, label in listed(split) if label == 3}
        for split in (loaded.train, loaded.test)
    ]
    assert len(sides[1]) < 10  # some have two of the ten
    assert sides[0].isdisjoint(sides[1])


def test_patients_of_covid_who_are_validated_on_are_not_trained_on(tmp_path):
    trees.covid_lt(tmp_path, other=90, normal=90, pneumonia=60, covid=48)
    run = data("covid_lt", imbalance_ratio=2.0, validation_per_class=4)
    loaded = load_task(run, 0, tmp_path)
    patient = lambda path: re.search(r"patient\d+", path)
    sets = [
        {found[0] for path in part.inputs.paths if (found := patient(str(path)))}
        for part in (loaded.train, loaded.validation, loaded.test)
    ]
    for one, other in itertools.combinations(sets, 2):
        assert one
        assert not one & other
    assert np.bincount(loaded.validation.labels).tolist() == [4] * 4
    many = dataclasses.replace(run, validation_per_class=40)
    with pytest.raises(ValueError, match="too few X-rays to hold out 40 of each class"):
        load_task(many, 0, tmp_path)


def test_covid_is_drawn_by_its_seed(tmp_path):
    trees.covid_lt(tmp_path)
    first, again, none, other = (
        datasets.load(data("covid_lt", corruption_seed=seed), tmp_path)
        for seed in (0, 0, None, 1)
    )
    assert listed(first.train) == listed(again.train) == listed(none.train)
    assert set(listed(first.train)) != set(listed(other.train))
    assert listed(first.test) == listed(other.test)
    assert np.bincount(first.train.labels).tolist() == imbalance.long_tail_counts(
        int(np.sum(first.train.labels == 0)), 4, 10
    )


def test_covid_as_large_as_the_paper_has_it():
    plenty = np.array([150_000, 20_000, 5000, 378])
    for ratio, counts in (
        (100.0, [37800, 8143, 1754, 378]),
        (10.0, [3780, 1754, 814, 378]),
    ):
        for partial in (False, True):
            asked = data("covid_lt", imbalance_ratio=ratio, partial=partial)
            assert covid._counts(asked, plenty) == counts
        # One less, and the whole is refused; a part keeps the proportions.
        less = plenty - [0, 0, 0, 1]
        whole = data("covid_lt", imbalance_ratio=ratio, partial=False)
        assert covid._counts(whole, less) == []
        part = covid._counts(data("covid_lt", imbalance_ratio=ratio), less)
        assert part[-1] == 377
        assert part[0] == math.floor(377 * ratio)


def test_too_little_for_covid_and_what_is_no_long_tail_is_refused(tmp_path):
    trees.covid_lt(tmp_path)
    said = damaged("covid_lt", tmp_path, partial=False)
    assert "[130, 40, 24, 16] X-rays of the four classes are too few" in said
    assert "100 each" in said
    said = damaged("covid_lt", tmp_path, imbalance_ratio=1000.0)
    assert "a long tail of ratio 1000" in said
    for fields in ({"imbalance": "step"}, {"scarce_first": True}):
        said = damaged("covid_lt", tmp_path, ValueError, **fields)
        assert "covid_lt is a long tail" in said


def test_an_older_table_of_covid_findings_will_do(tmp_path):
    trees.covid_lt(tmp_path)
    now = datasets.load(data("covid_lt"), tmp_path)
    path = tmp_path / "covid_lt" / covid._LISTS[1]
    content = path.read_text().replace(
        "Pneumonia/Viral/COVID-19", '"COVID-19, ARDS"', 5
    )
    path.write_text(content.replace("Pneumonia/Viral/COVID-19", "COVID-19"))
    before = datasets.load(data("covid_lt"), tmp_path)
    assert listed(before.train) == listed(now.train)


# --- Clothing1M ---


def test_swapped_lists_of_clothing1m_are_refused(tmp_path):
    trees.clothing1m(tmp_path)
    root = tmp_path / "clothing1m"
    keys = [f"images/{i}.jpg" for i in range(14_313 + 10_526)]
    trees.write_lines(root / "clean_label_kv.txt", [f"{key} 3" for key in keys])
    val, test = root / "clean_val_key_list.txt", root / "clean_test_key_list.txt"
    trees.write_lines(val, keys[14_313:])
    trees.write_lines(test, keys[:14_313])
    for partial in (False, True):
        said = damaged("clothing1m", tmp_path, partial=partial)
        assert f"{test} has the 14,313 lines of clean_val_key_list.txt" in said
    val.rename(root / "kept")
    test.rename(val)
    (root / "kept").rename(test)
    said = damaged("clothing1m", tmp_path, partial=False)
    assert "noisy_train_key_list.txt lists 84 images" in said
