"""Files that list images with labels, one a line, and what can be wrong with them."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments.data import _check
from experiments.data.types import DamagedData, Examples, Files, MissingData

# Of half a million images not all are looked for: where files are slow, that takes
# minutes. These, and the first of every class, are.
_LOOKED_FOR = 1000
_NUMBER = re.compile("[0-9]{1,9}")


def read(file: pathlib.Path, classes: int) -> Examples:
    """Reads lines of `path label`, whose paths stay below the list's directory.

    DamagedData if a line is not of that form, a label not in 0 ... classes - 1, a path
    leads elsewhere, or nothing is listed.
    """
    paths, labels = [], []
    for number, line in _lines(file):
        path, _, label = line.rpartition(" ")
        if not path or not _NUMBER.fullmatch(label):
            raise DamagedData(
                f"{file}, line {number}: expected `path label`, got {line!r}."
            )
        _check.label(f"{file}, line {number}", int(label), classes, repr(line))
        refuse_path(path, f"{file}, line {number}")
        paths.append(path)
        labels.append(int(label))
    return examples(file, paths, labels, range(1, len(paths) + 1))


def read_keys(file: pathlib.Path, labels: Mapping[str, int], labelled: str) -> Examples:
    """Reads lines of `path`, whose labels are in the file `labelled`.

    DamagedData if a path has no label, or nothing is listed.
    """
    paths, found = [], []
    for number, path in _lines(file):
        refuse_path(path, f"{file}, line {number}")
        if path not in labels:
            raise DamagedData(
                f"{file}, line {number}: {path!r} has no label in {labelled}."
            )
        paths.append(path)
        found.append(labels[path])
    return examples(file, paths, found, range(1, len(paths) + 1))


def examples(
    file: pathlib.Path,
    paths: list[str],
    labels: list[int],
    lines: Sequence[int] | None,
) -> Examples:
    """The images that a file lists, with their labels; DamagedData if it lists none.

    The paths are below the list's directory. `lines` are those of the images, from 1;
    None where the file has no lines.
    """
    if not paths:
        raise DamagedData(f"{file} lists no image.")
    numbers = None if lines is None else np.asarray(lines, np.int64)
    text = np.array(paths, np.dtypes.StringDType())
    files = Files(file.parent, text, str(file), numbers)
    return Examples(files, np.asarray(labels, np.int32))


def refuse_path(path: str, where: str) -> None:
    """Refuses a path that could lead out of the directory it is relative to.

    Links within the directory are followed: they are its owner's.
    """
    # One after the other, since a million paths come through here.
    if (
        path[:1] in ("", "/")
        or "\\" in path
        or "\0" in path
        or (".." in path and ".." in path.split("/"))
    ):
        raise DamagedData(
            f"{where}: the path must stay below the data set's directory, got {path!r}."
        )


def refuse_repeats(lists: Iterable[Examples]) -> None:
    """Refuses an image that is listed twice, in one list or in two."""
    seen: dict[str, str] = {}
    for files in (one.inputs for one in lists):
        for index, path in enumerate(files.paths.tolist()):
            if path in seen:
                raise DamagedData(
                    f"{files.line(index)}: {path!r} is in {seen[path]} already."
                )
            seen[path] = files.listed


def refuse_count(one: Examples, published: int) -> None:
    """Refuses a list that is shorter or longer than the published one."""
    if len(one.labels) != published:
        raise DamagedData(
            f"{one.inputs.listed} lists {len(one.labels):,} images, the published list "
            f"{published:,}. {_check.PARTIAL}"
        )


def refuse_class_counts(one: Examples, classes: int, least: int, most: int) -> None:
    """Refuses a list whose scarcest or largest class has not the published size."""
    counts = np.bincount(one.labels, minlength=classes)
    for label, published in ((counts.argmin(), least), (counts.argmax(), most)):
        if counts[label] != published:
            raise DamagedData(
                f"{one.inputs.listed} lists {counts[label]:,} images of class {label}; "
                f"the published list has {least:,} to {most:,} of a class."
            )


def refuse_missing_images(listed: Examples, advice: str) -> None:
    """Looks for 1,000 of the images, the same each time, and one of every class.

    One that is missing but is not among them is an error when it is read, see `Files`.
    MissingData if some are not there; `advice` says what the directory must hold.
    """
    files = listed.inputs
    rng = np.random.default_rng(0)
    sample = rng.choice(len(files), min(len(files), _LOOKED_FOR), replace=False)
    _, firsts = np.unique(listed.labels, return_index=True)
    indices = np.union1d(sample, firsts)
    missing = [index for index in indices if not files.path(index).is_file()]
    if missing:
        raise MissingData(
            f"{len(missing):,} of the {len(indices):,} images that were looked for are "
            f"not there, the first is {files.where(missing[0])}.\n"
            f"{files.root} must hold {advice}"
        )


def require(root: pathlib.Path, names: Iterable[str], advice: str) -> None:
    """Looks for these files below `root`; MissingData has the `advice` on them."""
    for name in names:
        if not (root / name).is_file():
            raise MissingData(f"{root / name} is not there.\n{root} must hold {advice}")


def _lines(file: pathlib.Path) -> Iterable[tuple[int, str]]:
    """The lines of a file with their numbers, from 1."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedData(f"{file} is not text: {error}.") from error
    if not text:
        return ()
    # Not `splitlines`, which also splits where editors and other readers do not.
    return enumerate(text.removesuffix("\n").split("\n"), start=1)
