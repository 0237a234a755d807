"""Files that list images with labels, one a line, and what can be wrong with them."""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from experiments.data.types import DamagedData, Examples, Files, MissingData

# Of half a million images not all are looked for: where files are slow, that takes
# minutes. These, and the first of every class, are.
_LOOKED_FOR = 1000
_NUMBER = re.compile("[0-9]{1,9}")


class Listing(NamedTuple):
    """What such a file lists, in its order."""

    file: pathlib.Path
    paths: list[str]  # [n]
    labels: np.ndarray  # int32 [n]
    lines: np.ndarray | None  # int64 [n], from 1; None where a file has no lines

    def where(self, index: int) -> str:
        """The file and the line of that entry."""
        line = "" if self.lines is None else f", line {self.lines[index]}"
        return f"{self.file}{line}"


def read(file: pathlib.Path, classes: int) -> Listing:
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
        if not int(label) < classes:
            raise DamagedData(
                f"{file}, line {number}: the label must be in 0 ... {classes - 1}, got "
                f"{line!r}."
            )
        refuse_path(path, f"{file}, line {number}")
        paths.append(path)
        labels.append(int(label))
    return listing(file, paths, labels)


def read_keys(file: pathlib.Path, labels: Mapping[str, int], labelled: str) -> Listing:
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
    return listing(file, paths, found)


def listing(
    file: pathlib.Path,
    paths: list[str],
    labels: list[int],
    lines: list[int] | None = None,
) -> Listing:
    """What has been read from that file; without `lines`, one line an entry.

    Raises:
      DamagedData: nothing is listed.
    """
    if not paths:
        raise DamagedData(f"{file} lists no image.")
    numbers = np.arange(1, len(paths) + 1) if lines is None else np.asarray(lines)
    return Listing(
        file, paths, np.asarray(labels, np.int32), numbers.astype(np.int64, copy=False)
    )


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


def refuse_repeats(listings: Iterable[Listing]) -> None:
    """Refuses an image that is listed twice, in one list or in two."""
    seen: dict[str, pathlib.Path] = {}
    for one in listings:
        for index, path in enumerate(one.paths):
            if path in seen:
                raise DamagedData(
                    f"{one.where(index)}: {path!r} is in {seen[path]} already."
                )
            seen[path] = one.file


def refuse_count(one: Listing, published: int) -> None:
    """Refuses a list that is shorter or longer than the published one."""
    if len(one.paths) != published:
        raise DamagedData(
            f"{one.file} lists {len(one.paths):,} images, the published list "
            f"{published:,}. With data.partial a part of a data set is accepted."
        )


def refuse_class_counts(one: Listing, classes: int, least: int, most: int) -> None:
    """Refuses a list whose scarcest or largest class has not the published size."""
    counts = np.bincount(one.labels, minlength=classes)
    for label, published in ((counts.argmin(), least), (counts.argmax(), most)):
        if counts[label] != published:
            raise DamagedData(
                f"{one.file} lists {counts[label]:,} images of class {label}; the "
                f"published list has {least:,} to {most:,} of a class."
            )


def examples(root: pathlib.Path, one: Listing) -> Examples:
    """The listed images, below `root`, with their labels."""
    paths = np.array(one.paths, dtype=np.dtypes.StringDType())
    return Examples(Files(root, paths, str(one.file), one.lines), one.labels)


def refuse_missing_images(listed: Examples, advice: str) -> None:
    """Looks for 1,000 of the images, the same each time, and one of every class.

    One that is missing but is not among them is an error when it is read, see `Files`.

    Raises:
      MissingData: some are not there; `advice` says what the directory must hold.
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
