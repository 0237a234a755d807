"""Your own tables: CSV, or Parquet where pyarrow is installed.

`--data.path` is a file, or a directory with train.csv and, where you have them,
test.csv and validation.csv. Columns are separated by commas, semicolons or tabs. The
first row has the names of the columns, unless one of its cells is a number: columns are
then named 1, 2, ... But where its numbers are 0, 1, 2, ... or 1, 2, 3, ..., at least
three of them and at most one other name, they are names, as pandas writes them. A
column without a name, or that pandas gives its index (`Unnamed: 0`), is not used.

A column whose training cells are all numbers or missing is numeric: the median of the
training set stands for what is missing, and it is scaled to mean 0 and deviation 1
there. Any other column has a 0 or 1 for each of its categories, zeros for one that no
training example has.
"""

import collections
import csv
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import configs
from experiments.data import own
from experiments.data.types import DamagedData, Dataset, MissingData

LABELS = ("label", "class", "target", "y")  # names of the column of labels
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
_MOST = 1000  # categories of a column
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # pandas' index, saved twice
_LARGEST = 1e150  # of a number, whose square is finite


@dataclasses.dataclass(frozen=True)
class Table:
    """The cells of a file."""

    path: pathlib.Path
    names: list[str]  # of the columns
    rows: list[list[str]]  # cells, as text
    lines: Sequence[int]  # of each row, from 1
    header: bool = True  # whether the columns have names; else they are numbered

    def where(self, row: int) -> str:
        """A row for messages."""
        return f"{self.path}, line {self.lines[row]}"

    def column(self, name: str) -> int:
        """The index of a column; DamagedData names those there are."""
        if name not in self.names:
            raise DamagedData(
                f"{self.path} has no column {name!r}; its columns are "
                f"{', '.join(self.names)}."
            )
        return self.names.index(name)

    def labels(self, column: int) -> list[str]:
        """The cells of a column, none of which may be missing."""
        for row, cells in enumerate(self.rows):
            if cells[column].lower() in own.MISSING:
                raise DamagedData(
                    f"{self.where(row)}: the label, of the column "
                    f"{self.names[column]!r}, is missing, got {cells[column]!r}. "
                    f"{own.MISSING_RULE}"
                )
        return [_shortest(cells[column].strip("'")) for cells in self.rows]


def load(data: configs.Data) -> Dataset:
    """Loads a table; see `datasets`."""
    found = tables(data)
    train = found["train"]
    label = label_of(train, data.label)
    categories = _used(train, data, label)
    parts = {
        name: own.Part(
            _stored(table, categories),
            table.labels(table.column(train.names[label])),
            table.where,
        )
        for name, table in found.items()
    }
    width = sum(1 if each is None else len(each) for each in categories.values())
    fit = lambda inputs: _fit(inputs, categories, train.names[label])
    return own.dataset(parts, data, "table", (width,), fit)


def unlabelled(path: pathlib.Path, data: configs.Data) -> np.ndarray:
    """The rows of another file as `load` stores those of `data`; of labels no need."""
    train = read(files(data)["train"])
    label = label_of(train, data.label)
    return _stored(read(path, train, label), _used(train, data, label))


def tables(data: configs.Data) -> dict[str, Table]:
    """The table of each split."""
    paths = files(data)
    train = read(paths.pop("train"))
    return {"train": train} | {name: read(path, train) for name, path in paths.items()}


def _used(
    train: Table, data: configs.Data, label: int
) -> dict[str, dict[str, int] | None]:
    """The categories of the columns that are used, by name; None for numeric ones."""
    dropped = {train.column(name) for name in data.drop} | {label}
    used = [n for i, n in enumerate(train.names) if n and i not in dropped]
    if not used:
        raise DamagedData(f"{train.path} has no column but the label.")
    return {name: _categories(train, name) for name in used}


def files(data: configs.Data) -> dict[str, pathlib.Path]:
    """The file of each split."""
    path = own.path_of(data)
    if path.is_file():
        return {"train": path}
    by_split = own.below(path, SUFFIXES)
    if "train" not in by_split:
        raise MissingData(
            f"{path} has no train.csv: give the path of a file, or of a directory with "
            "train.csv and, if you have them, test.csv and validation.csv."
        )
    return by_split


def read(
    path: pathlib.Path, train: Table | None = None, label: int | None = None
) -> Table:
    """Reads a file, where `train` has been read with columns as those of `train`.

    Where that has no header, this has none; the columns are then the same, or without
    that of the `label`. DamagedData if it is not text, has no row, or a row has too few
    or too many cells.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(filter(str.strip, file), "")
            file.seek(0)
            csv.field_size_limit(2**31 - 1)  # without, a text of 131,073 is refused
            reader = csv.reader(file, delimiter=_delimiter(first), strict=True)
            numbered = [
                (reader.line_num, [cell.strip() for cell in row])
                for row in reader
                if row
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedData(f"{path} is no CSV file in UTF-8: {error}.") from error
    except OSError as error:
        raise DamagedData(f"{path}: {error.strerror}.") from error
    if not numbered:
        raise DamagedData(f"{path} is empty.")
    _, head = numbered[0]
    header = not any(map(_is_decimal, head)) or _counts_up(head)
    header &= train is None or train.header
    if header:
        names, numbered = _named(head), numbered[1:]
    elif train is None or train.header:
        names = [str(number) for number in range(1, len(head) + 1)]
    else:
        names = _numbers_of(path, len(head), train, label)
    counts = collections.Counter(filter(None, names))
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DamagedData(f"{path} has two columns {repeated[0]!r}.")
    for line, row in numbered:
        if len(row) != len(names):
            raise DamagedData(
                f"{path}, line {line}: expected {len(names)} cells, got {len(row)}."
            )
    if not numbered:
        raise DamagedData(f"{path} has a header and no row.")
    lines, rows = zip(*numbered, strict=True)
    return Table(path, names, list(rows), lines, header)


def _named(head: Sequence[str]) -> list[str]:
    """The names of columns; "" for one that is not used."""
    return ["" if _UNNAMED.fullmatch(name) else name for name in head]


def _counts_up(head: Sequence[str]) -> bool:
    """Whether the numbers among the cells count the columns, so that they are names.

    Examples:
      >>> _counts_up(["", "0", "1", "2", "label"]), _counts_up(["0", "1", "7", "a"])
      (True, False)
    """
    numbers = [cell for cell in head if _is_decimal(cell)]
    names = [cell for cell in head if cell and not _is_decimal(cell)]
    counted = ([str(i + start) for i in range(len(numbers))] for start in (0, 1))
    return len(numbers) >= 3 and len(names) <= 1 and numbers in counted


def _delimiter(line: str) -> str:
    """The most frequent one, but not the comma where it is a decimal one.

    Examples:
      >>> _delimiter("a,b"), _delimiter("a;b"), _delimiter("0,5;1,5;2,5")
      (',', ';', ';')
    """
    for delimiter in ";\t":
        with_comma = [cell for cell in line.split(delimiter) if "," in cell]
        if delimiter in line and all(map(_is_decimal, with_comma)):
            return delimiter
    return max(",;\t", key=line.count)


def _is_decimal(cell: str) -> bool:
    """Whether it is a number, with a decimal point or comma."""
    return _is_number(cell.strip().replace(",", ".", 1))


def _numbers_of(
    path: pathlib.Path, width: int, train: Table, label: int | None
) -> list[str]:
    """The numbers, in training, of the columns of a file without a header."""
    unlabelled = [*train.names]
    if label is not None:
        del unlabelled[label]
    for names in (train.names, unlabelled):
        if width == len(names):
            return names
    less = "" if label is None else f", or without the label's, {train.names[label]},"
    raise DamagedData(
        f"{path} has {width} columns: without a header, it must have the "
        f"{len(train.names)} of {train.path}{less} in their order."
    )


def label_of(table: Table, name: str | None) -> int:
    """The index of the column of labels: of that name, or the one to be expected."""
    if name is not None:
        return table.column(name)
    lower = [column.lower() for column in table.names]
    for expected in LABELS:
        if expected in lower:
            return lower.index(expected)
    return max((i for i, column in enumerate(lower) if column), default=0)


def _parquet(path: pathlib.Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingData(
            f"{path} is Parquet, which pyarrow reads: pip install pyarrow, or give CSV."
        ) from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedData(f"{path}: {error}.") from error
    columns = [column.to_pylist() for column in table.columns]
    text = lambda cell: "" if cell is None else str(cell).strip()
    rows = [[text(cell) for cell in row] for row in zip(*columns, strict=True)]
    if not rows:
        raise DamagedData(f"{path} has no row.")
    return Table(path, _named(table.column_names), rows, range(1, len(rows) + 1))


def _categories(table: Table, name: str) -> dict[str, int] | None:
    """The categories of a column, numbered from 0; None for a numeric one."""
    column = table.column(name)
    cells = {
        index: cell
        for index, row in enumerate(table.rows)
        if (cell := row[column]).lower() not in own.MISSING
    }
    odd = {index: cell for index, cell in cells.items() if not _is_number(cell)}
    if not odd:
        return None
    words = sum(not _is_decimal(cell) for cell in odd.values())
    if words < len(cells) / 2:
        row, cell = next(iter(odd.items()))
        raise DamagedData(
            f"{table.where(row)}: {cell!r} is not a number, and most cells of the "
            f"column {name!r} are. Numbers are written as 1234.5, and the cell of a "
            "missing one is empty: correct the file, or leave the column out with "
            f"--data.drop {name}. If they are categories, begin each with a letter."
        )
    numbers = {cell: number for number, cell in enumerate(sorted({*cells.values()}))}
    if len(numbers) > _MOST:
        raise DamagedData(
            f"{table.path}: the column {name!r} has {len(numbers):,} different values "
            f"that are not numbers, more than {_MOST:,} categories: leave it out with "
            f"--data.drop {name}."
        )
    return numbers


def _stored(table: Table, categories: dict[str, dict[str, int] | None]) -> np.ndarray:
    """Numbers, NaN where missing, and numbers of categories, −1 for an unknown one.

    float64 `[rows, columns]`.
    """
    stored = np.empty((len(table.rows), len(categories)))
    for index, (name, known) in enumerate(categories.items()):
        column = table.column(name)
        for row, cells in enumerate(table.rows):
            cell = cells[column]
            if known is not None:
                stored[row, index] = known.get(cell, -1)
            elif cell.lower() in own.MISSING:
                stored[row, index] = np.nan
            else:
                stored[row, index] = float(cell) if _is_number(cell) else np.inf
        too_large = np.abs(stored[:, index]) > _LARGEST  # False where it is missing
        if known is None and too_large.any():
            row = int(too_large.argmax())
            raise DamagedData(
                f"{table.where(row)}: expected a number of at most {_LARGEST:g} in the "
                f"column {name!r}, got {table.rows[row][column]!r}."
            )
    return stored


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Standardised numbers, then 0 or 1 a category; called with stored columns."""

    scaled: own.Standardised | None  # the numeric columns; None without any
    numeric: list[str]  # their names
    # Of each other column, by name, in the order of their numbers; None for one that no
    # training example has, and whose column is always 0.
    categories: dict[str, list[str | None]]
    names: list[str]  # of all columns, as they are stored
    label: str  # name of the column of labels, which is none of these

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """From what `_stored` makes to float32 `[rows, inputs]`."""
        is_numeric = [name in self.numeric for name in self.names]
        parts = [] if self.scaled is None else [self.scaled(stored[:, is_numeric])]
        for name, known in self.categories.items():
            column = stored[:, self.names.index(name)]
            seen = [one is not None for one in known]
            hot = (column[:, None] == np.arange(len(known))) & seen
            parts.append(hot.astype(np.float32))
        return np.concatenate(parts, axis=1)

    def described(self) -> dict[str, Any]:
        """For JSON: the columns in the order of the inputs, and what counts as missing.

        A numeric column has a median, mean and std, any other its categories.
        """
        numbers = dataclasses.asdict(self.scaled) if self.scaled else {}
        columns: list[dict[str, Any]] = [
            {"name": name} | {key: values[i] for key, values in numbers.items()}
            for i, name in enumerate(self.numeric)
        ]
        for name, known in self.categories.items():
            columns.append({"name": name, "categories": known})
        return {"columns": columns, "missing": sorted(own.MISSING)}


def _fit(
    train: np.ndarray, categories: Mapping[str, dict[str, int] | None], label: str
) -> Encoded:
    """Standardised numbers, and 0 or 1 for each category that is in training."""
    numeric = [name for name, known in categories.items() if known is None]
    of_numbers = train[:, [known is None for known in categories.values()]]
    seen = {
        name: [one if number in column else None for one, number in known.items()]
        for (name, known), column in zip(categories.items(), train.T, strict=True)
        if known is not None
    }
    scaled = own.standardise(of_numbers) if numeric else None
    return Encoded(scaled, numeric, seen, [*categories], label)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which Python reads, and nobody writes


def _shortest(label: str) -> str:
    """1 for 1.0, so that two files which write it differently agree."""
    return label.removesuffix(".0") if _is_number(label) else label
