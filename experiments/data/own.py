"""Your own data: image files, and what all formats share.

Image files are in subfolders named after their classes, `PATH/CLASS/*.jpg`, or
`PATH/train/CLASS/*.jpg` with `test` and `val` where you have them: the form of
torchvision's ImageFolder.

A format is a module with a `load` (see `datasets`) that reads `Part`s and makes a data
set of them with `dataset`. Inputs are kept as they were stored where statistics of the
training examples are needed, and `Dataset.fit` is called once these are known.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import configs, fields
from experiments.data import split
from experiments.data.types import (
    DamagedData,
    Dataset,
    Examples,
    Files,
    MissingData,
    file_names,
)

# Names of a split in files and directories.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})  # cells, lower case
MISSING_RULE = "Nothing, na, n/a, nan, null, none and ? stand for what is missing."


class Part(NamedTuple):
    """One split as it is stored."""

    inputs: np.ndarray | Files
    labels: Sequence[str | int]  # a name or a number for each
    where: Callable[[int], str]  # an example by its index, for messages


def load(data: configs.Data) -> Dataset:
    """Lists image files; see `datasets`."""
    path = path_of(data)
    parts = {}
    for name, found in listed(path, IMAGES, "image").items():
        paths = [str(file.relative_to(path).as_posix()) for file, _ in found]
        files = Files(path, file_names(paths))
        labels = [label for _, label in found]
        parts[name] = Part(files, labels, files.where)
    return dataset(parts, data, "images", notes=unused_beside_classes(path, IMAGES))


def path_of(data: configs.Data) -> pathlib.Path:
    """The path of your own data; MissingData if there is nothing."""
    path = pathlib.Path(data.path or "").expanduser()
    if not path.exists():
        raise MissingData(
            f"There is no {path}: --data.path says where your data are. If those of "
            "a run were moved, `train` with the new path and its --out finds them."
        )
    return path


def below(
    path: pathlib.Path, suffixes: Collection[str] = ()
) -> dict[str, pathlib.Path]:
    """The files of a directory with the name of a split and a suffix, by split.

    Without suffixes the directories of that name. DamagedData if two are of one split,
    such as `val` and `validation`.
    """
    by_split = {}
    for entry in sorted(path.iterdir()):
        if not (entry.suffix.lower() in suffixes if suffixes else entry.is_dir()):
            continue
        stem = entry.stem if suffixes else entry.name
        for name, names in SPLITS.items():
            if stem.lower() not in names:
                continue
            if name in by_split:
                raise DamagedData(
                    f"{path} has {by_split[name].name} and {entry.name}, which are "
                    f"both for the {name} set: leave one of them."
                )
            by_split[name] = entry
    return by_split


def files_below(folder: pathlib.Path, suffixes: Collection[str]) -> list[pathlib.Path]:
    """The files of a folder and its subfolders that have a suffix, sorted.

    Hidden ones are left out, and those in hidden folders, such as the copies of
    `.ipynb_checkpoints`, or in `__MACOSX`.
    """
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and _is_visible_file(path, folder)
    ]


def _is_visible_file(path: pathlib.Path, folder: pathlib.Path) -> bool:
    parts = path.relative_to(folder).parts
    return path.is_file() and not any(map(_is_hidden, parts))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The subfolders of a folder, sorted, without hidden ones."""
    return [d for d in sorted(path.iterdir()) if d.is_dir() and not _is_hidden(d.name)]


def unused(path: pathlib.Path, used: Collection[pathlib.Path]) -> list[str]:
    """What to say of the visible entries of a directory that are not `used`."""
    used = {*used}
    names = [
        entry.name + "/" * entry.is_dir()
        for entry in sorted(path.iterdir())
        if entry not in used and not _is_hidden(entry.name)
    ]
    return [f"Not used, in {path}: {listed_names(names)}."] if names else []


def unused_beside_classes(path: pathlib.Path, suffixes: Collection[str]) -> list[str]:
    """The same of a directory of classes, or of splits, and of files below these.

    Those count that have another ending than the `suffixes`; see `listed`.
    """
    splits = below(path)
    used = splits.values() if "train" in splits else _folders(path)
    endings = collections.Counter(
        file.suffix.lower() or "none"
        for folder in used
        for file in folder.rglob("*")
        if file.suffix.lower() not in suffixes and _is_visible_file(file, folder)
    )
    each = [f"{ending} ({count})" for ending, count in sorted(endings.items())]
    below_them = f"Not used, below {path}: files with the ending {listed_names(each)}."
    return unused(path, used) + [below_them] * bool(each)


def dataset(
    parts: Mapping[str, Part],
    data: configs.Data,
    inputs: Literal["images", "text", "table"],
    shape: tuple[int, ...] = (),
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None,
    class_names: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Dataset:
    """Numbers the classes, and holds a test set out where there is none.

    `parts` are by split; that of training must be there. `shape` is that of an example
    as the network gets it. `fit` makes, of the stored training inputs, a function of
    stored inputs; None where the network gets what is stored. Labels are 0, 1, ... of
    the `class_names`; without these they are names themselves, in the order of numbers
    or of the alphabet. Of two classes the positive one, if it is given, is the second.
    `notes` are sentences for the user, on how the data were read.

    DamagedData if there is one class only, two have the same name, or there is a label
    that no training example has.
    ValueError if a class has too few examples to hold one out, or the positive class is
    none of two.
    """
    distinct = sorted({*parts["train"].labels}, key=_rank)
    labels = list(range(len(class_names))) if class_names else distinct
    if len(distinct) < 2:
        raise DamagedData(
            f"{data.path}: there must be two classes or more, got "
            f"{', '.join(map(repr, distinct)) or 'no example'}."
        )
    if 2 * len(distinct) > len(parts["train"].labels):
        raise DamagedData(
            f"{data.path}: {len(parts['train'].labels)} training examples have "
            f"{len(distinct)} different labels, such as {distinct[0]!r}. Labels are "
            "classes, each with several examples, and not numbers to be predicted."
        )
    names = tuple(map(str, class_names or labels))
    file_names(names)  # refuses those that figures could not show
    ((name, count),) = collections.Counter(names).most_common(1)
    if count > 1:
        raise DamagedData(
            f"{data.path}: classes must have different names, got {name!r} {count} "
            "times."
        )
    if data.positive is not None:
        fields.refuse(
            len(names) != 2 or data.positive not in names,
            f"data.positive must be one of two classes, got {data.positive!r} for "
            f"{listed_names(names)}.",
        )
        if data.positive == names[0]:
            labels, names = labels[::-1], names[::-1]
    number = {label: index for index, label in enumerate(labels)}
    splits = {}
    for name, part in parts.items():
        if not part.labels:
            raise DamagedData(
                f"{data.path}: the {name} set has no example: leave it out, or give it "
                "some."
            )
        for index, label in enumerate(part.labels):
            if label not in number:
                said = (
                    f"labels must be 0 ... {len(labels) - 1} where the classes are "
                    f"named, got {label!r}."
                    if class_names
                    else f"no training example has the label {label!r}; there are "
                    f"{listed_names(labels)}."
                )
                raise DamagedData(f"{part.where(index)}: {said}")
        numbers = np.array([number[label] for label in part.labels], np.int32)
        splits[name] = Examples(part.inputs, numbers)
    every = np.concatenate([examples.labels for examples in splits.values()])
    sizes = tuple(np.bincount(every, minlength=len(names)).tolist())
    train, test, rows = splits["train"], splits.get("test"), None
    if test is None:
        held = split.shares(train.labels, data.test_share, names, "test")
        train, test = train.take(held.train), train.take(held.held_out)
        rows = held.train
    contents = configs.Contents(inputs, shape, names, sizes, _digest(splits))
    validation = splits.get("validation")
    return Dataset(train, test, validation, contents, fit, rows, tuple(notes))


def _digest(splits: Mapping[str, Examples]) -> str:
    """Of the examples of each split in their order; of image files of their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, (inputs, labels) in sorted(splits.items()):
        stored = inputs.paths if isinstance(inputs, Files) else inputs
        digest.update(f"{name} {stored.dtype} {stored.shape}".encode())
        if stored.dtype.kind == "T":  # texts, of any length
            digest.update("\0".join(stored.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(stored).data)
        digest.update(labels.data)
    return digest.hexdigest()


def listed(
    path: pathlib.Path, suffixes: tuple[str, ...], what: str
) -> dict[str, list[tuple[pathlib.Path, str]]]:
    """Files with their class, in the order of their names, by split.

    The path is a directory of classes, or of splits; files count that have the
    suffixes, in lower case; `what` they are is for messages. DamagedData if it is not a
    directory, it has splits but no `train`, or a class has no such file.
    """
    if not path.is_dir():
        raise DamagedData(
            f"{path} must be a directory with a subfolder for each class."
        )
    splits = below(path)
    roots = splits if "train" in splits else {"train": path}
    by_split = {}
    for name, root in roots.items():
        by_split[name] = []
        classes = _folders(root)
        if not classes:
            raise DamagedData(f"{root} must have a subfolder for each class, got none.")
        if root == path and {d.name.lower() for d in classes} <= SPLIT_NAMES:
            raise DamagedData(
                f"{path} has {', '.join(f'{d.name}/' for d in classes)} and no train/: "
                "training examples are in train/, in a subfolder for each class."
            )
        if root == path:
            _refuse_splits(path, classes)
        for folder in classes:
            files = files_below(folder, suffixes)
            if not files and name == "train":
                raise DamagedData(
                    f"{folder} has no {what}: expected files with the ending "
                    f"{', '.join(suffixes)}."
                )
            by_split[name] += [(file, folder.name) for file in files]
    return by_split


def _refuse_splits(path: pathlib.Path, classes: Sequence[pathlib.Path]) -> None:
    """Raises DamagedData if folders look like splits whose names are not known."""
    inner = [{folder.name for folder in _folders(each)} for each in classes]
    same = len(classes) > 1 and len(inner[0]) > 1 and all(i == inner[0] for i in inner)
    visible = (e for each in classes for e in each.iterdir() if not _is_hidden(e.name))
    if same and all(entry.is_dir() for entry in visible):
        raise DamagedData(
            f"{path} has {', '.join(f'{d.name}/' for d in classes)}, which look like "
            f"splits: all have the same subfolders, {listed_names(sorted(inner[0]))}, "
            f"and no file of their own. The names of splits are "
            f"{', '.join(sorted(SPLIT_NAMES))}: rename the folders, or, if they are "
            "classes, put the files of each into it and not below."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Standardised:
    """Imputes and scales columns, or channels, as in training; called with arrays."""

    median: np.ndarray  # float64 [columns], for what is missing
    mean: np.ndarray  # float64 [columns], of the training set
    std: np.ndarray  # float64 [columns], standard deviation of the same

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """From float `[n, ..., columns]`, NaN where missing, to float32."""
        full = np.where(np.isnan(stored), self.median, stored)
        return ((full - self.mean) / self.std).astype(np.float32)

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def standardise(train: np.ndarray) -> Standardised:
    """Imputes the training median, and scales to mean 0 and deviation 1 in training.

    From float `[n, columns]`, NaN where a number is missing, or images, which have a
    column for each channel, to float32. A column without a number becomes 0, one that
    does not vary keeps its scale.
    """
    columns = train.reshape(-1, train.shape[-1]).astype(np.float64)
    known = ~np.isnan(columns).all(axis=0)
    median = np.zeros(columns.shape[1])
    median[known] = np.nanmedian(columns[:, known], axis=0)
    columns = np.where(np.isnan(columns), median, columns)
    mean, std = columns.mean(axis=0), columns.std(axis=0)
    std[std <= 1e-12 * np.abs(mean)] = 1.0
    return Standardised(median, mean, std)


def _rank(label: str | int) -> tuple[int, float, str]:
    """Sorts numbers before names."""
    try:
        return 0, float(label), str(label)
    except ValueError:
        return 1, 0.0, str(label)


def listed_names(names: Sequence[object], most: int = 10) -> str:
    """The first names, and how many more there are, for messages."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(in_list, names[:most])) + more


def in_list(name: object) -> str:
    """A name as it stands in a list, in quotes if it has a comma."""
    return repr(name) if "," in str(name) else str(name)
