"""Types of data sets in memory or as files, and the errors of loading them."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import configs


class MissingData(Exception):
    """A data set is not there; the message says what to do about it."""


class DamagedData(Exception):
    """A data set is there but not what it should be; names the file, and the line."""


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files, decoded for each batch. Indexed as a NumPy vector is."""

    root: pathlib.Path  # that the paths are relative to
    paths: np.ndarray  # StringDType [n], with forward slashes, below `root`
    listed: str = ""  # the file that lists them, for messages
    # int64 [n], the line of each in it, from 1; None where it has no lines
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> "Files":
        """Indexes as NumPy does: an int (one file), a slice, an int or bool array."""
        return Files(
            self.root,
            np.atleast_1d(self.paths[index]),
            self.listed,
            None if self.lines is None else np.atleast_1d(self.lines[index]),
        )

    def path(self, index: int) -> pathlib.Path:
        """The path of an image, by its index."""
        return self.root / str(self.paths[index])

    def line(self, index: int) -> str:
        """The list that has an image and the line there, for messages."""
        line = "" if self.lines is None else f", line {self.lines[index]}"
        return f"{self.listed}{line}"

    def where(self, index: int) -> str:
        """The path of an image and the line that lists it, for messages."""
        listed = f" ({self.line(index)})" if self.listed else ""
        return f"{self.path(index)}{listed}"

    def read(self, index: int) -> bytes:
        """Reads an image, still encoded.

        Raises:
          DamagedData: it cannot be read; names the file, and the line that lists it.
        """
        try:
            return self.path(index).read_bytes()
        except OSError as error:
            raise DamagedData(f"{self.where(index)}: {error.strerror}.") from error


def file_names(paths: Sequence[str]) -> np.ndarray:
    """The paths of `Files`, `[n]`; DamagedData where one is not UTF-8."""
    try:
        return np.array(paths, np.dtypes.StringDType())
    except UnicodeEncodeError as error:
        raise DamagedData(
            f"{error.object!r} is not UTF-8: rename the file, or its folder."
        ) from error


class Examples(NamedTuple):
    """Inputs with labels."""

    # Images: uint8 [n, height, width, channels], or float32 in [0, 1] (digits).
    # Text: int32 [n, length]. Tables: float32 [n, columns]. Image files: Files of
    # length n. Of your own data as stored, until `Dataset.fit`.
    inputs: np.ndarray | Files
    labels: np.ndarray  # int32 [n]

    def take(self, index: np.ndarray) -> "Examples":
        """The examples of these indices, `index` int `[n]`."""
        return Examples(self.inputs[index], self.labels[index])


class Dataset(NamedTuple):
    """A data set as its makers split it."""

    train: Examples
    test: Examples | None  # None where there is no test split (digits)
    validation: Examples | None  # None where there is no validation split
    contents: configs.Contents | None = None  # of your own data
    # From the training inputs as stored to a function that makes the network's inputs
    # of stored ones; None where they are what is stored.
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None
    # int64 [train examples]: where each is stored, if some were held out; else None
    rows: np.ndarray | None = None
    notes: tuple[str, ...] = ()  # sentences for the user, on how own data were read
