"""COVID-LT: chest X-rays of two collections, subsampled to a long tail of four classes.

In `data_dir`, the down-sampled CheXpert and the collection of Cohen et al.:

    covid_lt/CheXpert-v1.0-small/train.csv
    covid_lt/CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg
    covid_lt/covid-chestxray-dataset/metadata.csv
    covid_lt/covid-chestxray-dataset/images/*

Classes: 0 other findings, 1 normal (CheXpert's No Finding), 2 pneumonia, 3 COVID-19,
the only one of the second collection. The paper's own lists are not public; here images
are X-rays of every view, drawn at random.

The counts are those of the paper's formula, 37800, 8143, 1754, 378 at a ratio of 100;
the totals in its text do not follow from it. The test split has 100 of each class. No
patient is both in it and trained on, or in the validation split and trained on.
"""

import csv
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments import configs
from experiments.data import _check, imbalance, listing
from experiments.data.types import DamagedData, Dataset, Examples, Files

_CHEXPERT = "CheXpert-v1.0-small"
_COHEN = "covid-chestxray-dataset"
_LISTS = (f"{_CHEXPERT}/train.csv", f"{_COHEN}/metadata.csv")
_CLASSES = 4
_OTHER, _NORMAL, _PNEUMONIA, _COVID = range(_CLASSES)
SCARCEST = 378  # images of COVID-19 that are trained on
_TEST_PER_CLASS = 100
_ADVICE = (
    f"{_CHEXPERT}/ (https://stanfordmlgroup.github.io/competitions/chexpert) and "
    f"{_COHEN}/ (https://github.com/ieee8023/covid-chestxray-dataset)."
)


class _Images(NamedTuple):
    """X-rays of one collection or both, in the order of their lists."""

    paths: np.ndarray  # StringDType [n]
    patients: np.ndarray  # str [n]
    labels: np.ndarray  # int32 [n]
    lines: np.ndarray  # int64 [n]


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Loads both collections, subsampled to the long tail; see `datasets`.

    `imbalance_ratio` is that of the formula. `corruption_seed`, 0 where it is None,
    decides what is trained on; the test split is always the same. With `partial`, the
    test split has a fifth of the scarcest class or 100, and the training counts the
    formula's proportions. ValueError if another imbalance than a long tail is asked
    for.
    """
    if data.imbalance != "long_tail" or data.scarce_first:
        raise ValueError(
            f"covid_lt is a long tail whose last class is the scarcest, got imbalance "
            f"{data.imbalance!r}, scarce_first {data.scarce_first}."
        )
    root = data_dir / "covid_lt"
    listing.require(root, _LISTS, _ADVICE)
    both = _chexpert(root / _LISTS[0]), _cohen(root / _LISTS[1])
    images = _Images(*map(np.concatenate, zip(*both, strict=True)))
    available = np.bincount(images.labels, minlength=_CLASSES)
    per_class = _TEST_PER_CLASS
    if data.partial:
        per_class = min(per_class, -(-int(available.min()) // 5))
    test = _held_out(images, per_class)
    # A patient of the test split is not trained on, of whatever class the image.
    tested = np.isin(images.patients, np.unique(images.patients[test]))
    rest = np.flatnonzero(~tested)
    counts = _counts(data, np.bincount(images.labels[rest], minlength=_CLASSES))
    test_counts = np.bincount(images.labels[test], minlength=_CLASSES)
    least = 1 if data.partial else _TEST_PER_CLASS
    if not counts or test_counts.min() < least:
        raise DamagedData(
            f"{root}: {available.tolist()} X-rays of the four classes are too few for "
            f"a test split of {per_class} each, by patient, and a long tail of ratio "
            f"{data.imbalance_ratio:g} to train on. {_check.PARTIAL}"
        )
    rng = np.random.default_rng(data.corruption_seed or 0)
    train = rest[imbalance.select(images.labels[rest], counts, rng)]
    parts = [train, test]
    if data.validation_per_class:
        held = train[_held_out(_take(images, train), data.validation_per_class)]
        validated = np.isin(images.patients, np.unique(images.patients[held]))
        parts = [train[~validated[train]], test, held]
        for indices, least in (held, data.validation_per_class), (parts[0], 1):
            if np.bincount(images.labels[indices], minlength=_CLASSES).min() < least:
                raise ValueError(
                    "There are too few X-rays to hold out "
                    f"{data.validation_per_class} of each class, by patient, and train "
                    f"on the rest: {counts} of the four classes."
                )
    listed = "the CSV file of its collection"
    whole = Examples(Files(root, images.paths, listed, images.lines), images.labels)
    splits = [whole.take(np.sort(indices)) for indices in parts]
    for split in splits:
        listing.refuse_missing_images(split, _ADVICE)
    return Dataset(splits[0], splits[1], splits[2] if len(splits) > 2 else None)


def _take(images: _Images, indices: np.ndarray) -> _Images:
    return _Images(*(column[indices] for column in images))


def _counts(data: configs.Data, available: np.ndarray) -> list[int]:
    """Training images of each class; none where there are too few."""
    ratio = data.imbalance_ratio
    head = SCARCEST * ratio
    if data.partial:
        shares = ratio ** (-np.arange(_CLASSES) / (_CLASSES - 1))
        head = min(head, (available / shares).min())
    try:
        counts = imbalance.long_tail_counts(int(head), _CLASSES, ratio)
        if data.total is not None:
            counts = imbalance.scale_counts(counts, data.total)
    except ValueError:  # the last class would be empty
        return []
    return counts if (counts <= available).all() else []


def _held_out(images: _Images, per_class: int) -> np.ndarray:
    """Indices to hold out: so many of each class, all images of their patients.

    Patients come in random order, and one who has too many for what is still wanted is
    passed over. The order is the same every time.
    """
    rng = np.random.default_rng(0)
    indices = []
    for label in range(_CLASSES):
        of_class = np.flatnonzero(images.labels == label)
        _, owners = np.unique(images.patients[of_class], return_inverse=True)
        sizes = np.bincount(owners)
        wanted, chosen = per_class, []
        for patient in rng.permutation(len(sizes)):
            if sizes[patient] <= wanted:
                chosen.append(patient)
                wanted -= sizes[patient]
            if not wanted:
                break
        indices.append(of_class[np.isin(owners, chosen)])
    return np.concatenate(indices)


def _chexpert(file: pathlib.Path) -> _Images:
    """CheXpert's training images: everything without either finding is other."""
    rows = []
    for line, row in _rows(file, ("Path", "No Finding", "Pneumonia")):
        found = re.fullmatch(rf"{_CHEXPERT}/train/(patient\d+)/.+", row["Path"])
        if not found:
            raise DamagedData(
                f"{file}, line {line}: expected a path as "
                f"{_CHEXPERT}/train/patient00001/study1/view1_frontal.jpg, got "
                f"{row['Path']!r}."
            )
        listing.refuse_path(row["Path"], f"{file}, line {line}")
        label = _OTHER
        for finding, positive in (("Pneumonia", _PNEUMONIA), ("No Finding", _NORMAL)):
            if row[finding] not in ("", "1.0", "0.0", "-1.0"):
                raise DamagedData(
                    f"{file}, line {line}: {finding} must be empty, 1.0, 0.0 or -1.0, "
                    f"got {row[finding]!r}."
                )
            if row[finding] == "1.0":
                label = positive
        rows.append((row["Path"], found[1], label, line))
    return _images(file, rows)


def _cohen(file: pathlib.Path) -> _Images:
    """X-rays with COVID-19 of the other collection."""
    rows = []
    for line, row in _rows(file, ("patientid", "finding", "modality", "filename")):
        # "Pneumonia/Viral/COVID-19"; in older versions "COVID-19" or "COVID-19, ARDS".
        findings = re.split("[/, ]", row["finding"])
        if row["modality"] == "X-ray" and "COVID-19" in findings:
            path = f"{_COHEN}/images/{row['filename']}"
            listing.refuse_path(path, f"{file}, line {line}")
            rows.append((path, f"cohen {row['patientid']}", _COVID, line))
    return _images(file, rows)


def _rows(
    file: pathlib.Path, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file that has these columns, with the lines they end on."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            lacking = [one for one in columns if one not in (reader.fieldnames or ())]
            if lacking:
                raise DamagedData(f"{file}, line 1: there is no column {lacking[0]!r}.")
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise DamagedData(
                        f"{file}, line {reader.line_num}: the row is too short."
                    )
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DamagedData(f"{file} is not a CSV file: {error}.") from error


def _images(file: pathlib.Path, rows: list[tuple[str, str, int, int]]) -> _Images:
    """Rows of path, patient, label and line as columns."""
    paths, patients, labels, lines = ([row[i] for row in rows] for i in range(4))
    one = listing.examples(file, paths, labels, lines)
    listing.refuse_repeats([one])
    files = one.inputs
    return _Images(files.paths, np.array(patients), one.labels, files.lines)
