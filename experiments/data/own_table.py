"""Your own tables: CSV, or Parquet where pyarrow is installed.

`--data.path` is a file, or a directory with train.csv and, where you have them,
test.csv and validation.csv. Columns are separated by commas, semicolons or tabs;
between tabs, quotes that are not in pairs around cells are part of these.

Whether the first row of a CSV has the names of the columns says the first of these
rules that applies:

1. A cell is a name that the configuration gives, and no column's number, or one of
   `LABELS` or `TEXTS`, and no other row has it in that column: names.
2. Its numbers are 0, 1, 2, ... or 1, 2, 3, ..., at least three of them and at most one
   other name, as pandas writes them: names.
3. It has no number: names, unless its label is another row's too and there is another
   row without a number.
4. Its label is no number and no other row's: it is refused, since it may be either.
5. Otherwise it is data, and columns are named 1, 2, ...

A column without a name, or that pandas gives its index (`Unnamed: 0`), is not used.

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
from typing import Any, Literal, TextIO

import numpy as np

from experiments import configs
from experiments.data import own
from experiments.data.types import DamagedData, Dataset, MissingData

LABELS = ("label", "class", "target", "y")  # names of the column of labels
TEXTS = ("text", "sentence", "review", "comment", "message", "content")  # and of texts
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
_MOST = 1000  # categories of a column
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # pandas' index, saved twice
_LARGEST_WHOLE = 2.0**53  # up to which floats tell whole numbers apart
_LARGEST = 1e150  # of a number, whose square is finite
_WRITTEN = re.compile(r"[-+$€£]*\s*\d[\d,.\s]*[%$€£]?")  # of a number, by people


# Of files that are not text in UTF-8, by how they begin.
_ENCODINGS = {
    b"\x1f\x8b": " but compressed by gzip (unpack it)",
    b"\xff\xfe": " but in UTF-16 (save it in UTF-8)",
    b"\xfe\xff": " but in UTF-16 (save it in UTF-8)",
}
_NO_HEADER = (
    " The first row was taken for data, because it has numbers or the label of another "
    "row; columns are therefore called 1, 2, and so on."
)


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
                f"{', '.join(self.names)}.{self.said}"
            )
        return self.names.index(name)

    @property
    def said(self) -> str:
        """What to say, after a sentence, where the first row is none of names."""
        return "" if self.header else _NO_HEADER

    def labels(self, column: int) -> list[str]:
        """The cells of a column, none of which may be missing."""
        for row, cells in enumerate(self.rows):
            if cells[column].lower() in own.MISSING:
                raise DamagedData(
                    f"{self.where(row)}: the label, of the column "
                    f"{self.names[column]!r}, is missing, got {cells[column]!r}. "
                    f"{own.MISSING_RULE}"
                )
        return [_shortest(_unquoted(cells[column])) for cells in self.rows]


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
    fit = lambda inputs: _fit(inputs, categories)
    notes = [*_notes_of(train, categories, label), *unused(data)]
    return own.dataset(parts, data, "table", (width,), fit, notes=notes)


def unlabelled(path: pathlib.Path, data: configs.Data) -> np.ndarray:
    """The rows of another file as `load` stores those of `data`; of labels no need."""
    train = read(files(data)["train"], data)
    label = label_of(train, data.label)
    return _stored(read(path, data, train, label), _used(train, data, label))


def tables(data: configs.Data) -> dict[str, Table]:
    """The table of each split."""
    paths = files(data)
    train = read(paths.pop("train"), data)
    others = {name: read(path, data, train) for name, path in paths.items()}
    return {"train": train} | others


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


def unused(data: configs.Data) -> list[str]:
    """What to say of the entries of a directory that are not read."""
    path = own.path_of(data)
    return own.unused(path, files(data).values()) if path.is_dir() else []


def read(
    path: pathlib.Path,
    data: configs.Data,
    train: Table | None = None,
    label: int | None = None,
) -> Table:
    """Reads a file, where `train` has been read with columns as those of `train`.

    It has a header if that has one. Without, the columns are the same, or without that
    of the `label`. DamagedData if it is not text, has no row, a row has too few or too
    many cells, or the first may be names as well as data.
    """
    if path.suffix.lower() == ".parquet":
        # Elsewhere not every column is used.
        every = train is None and data.source == "table"
        return _parquet(path, data.drop if every else None)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            numbered = _cells(file)
    except UnicodeDecodeError as error:
        kind = _ENCODINGS.get(path.read_bytes()[:2], "")
        raise DamagedData(f"{path} is not text in UTF-8{kind}: {error}.") from error
    except OSError as error:
        raise DamagedData(f"{path}: {error.strerror}.") from error
    if not numbered:
        raise DamagedData(f"{path} is empty.")
    _, head = numbered[0]
    for line, row in numbered:
        if len(row) != len(head):
            raise DamagedData(
                f"{path}, line {line}: expected {len(head)} cells, got {len(row)}, "
                f"of which the first is {row[0]!r}."
            )
    if train is None:
        header = _is_header(path, head, [row for _, row in numbered[1:]], data)
    else:
        header = train.header
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
    if not numbered:
        raise DamagedData(f"{path} has a header and no row.")
    lines, rows = zip(*numbered, strict=True)
    return Table(path, names, list(rows), lines, header)


def _cells(
    file: TextIO, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> list[tuple[int, list[str]]]:
    """The cells of each row, and the line that it ends on, from 1."""
    delimiter = _delimiter(next(filter(str.strip, file), ""))
    file.seek(0)
    limit = csv.field_size_limit(2**31 - 1)  # without, a text of 131,073 is refused
    reader = csv.reader(
        file,
        delimiter=delimiter,
        quoting=quoting,
        strict=True,
        skipinitialspace=delimiter != "\t",  # before a quote, too
    )
    numbered = []
    try:
        for row in filter(None, reader):
            if delimiter == "\t" and any("\t" in c and "\n" in c for c in row):
                raise csv.Error("a quoted cell has whole rows in it")
            numbered.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        if delimiter == "\t" and quoting == csv.QUOTE_MINIMAL:
            file.seek(0)
            return _cells(file, csv.QUOTE_NONE)
        raise DamagedData(
            f"{file.name}, line {reader.line_num}: {error}. A cell that begins with a "
            'quote ends with one, and "" stands for each quote within.'
        ) from error
    finally:
        csv.field_size_limit(limit)  # which is that of the whole process
    several = any(len(row) > 1 for _, row in numbered)  # else it is an empty text
    return [(line, row) for line, row in numbered if row != [""] or not several]


def _is_header(
    path: pathlib.Path, head: Sequence[str], rest: list[list[str]], data: configs.Data
) -> bool:
    """Whether the first row has the names of the columns, and is no example."""
    numbers = [str(number) for number in range(1, len(head) + 1)]
    names = {*LABELS, *TEXTS, data.label, data.text, *data.drop} - {*numbers}
    for column, cell in enumerate(head):
        if {cell, cell.lower()} & names and all(row[column] != cell for row in rest):
            return True
    if _counts_up(head):
        return True
    if data.label in numbers:
        label = numbers.index(data.label)
    else:
        label = max((i for i, cell in enumerate(head) if cell), default=0)
    repeated = head[label] in (row[label] for row in rest)
    has_number = lambda row: any(map(_is_decimal, row))
    if not has_number(head):  # a column may be named after one of its classes
        return not repeated or all(map(has_number, rest))
    if not repeated and not _is_decimal(head[label]):
        raise DamagedData(
            f"{path}: the first row has numbers, as data have, and its label "
            f"{head[label]!r} is no other row's. If it has the names of the columns, "
            f"give --data.label {head[label]}; if it is an example, leave it out."
        )
    return False


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


def _parquet(path: pathlib.Path, dropped: Sequence[str] | None) -> Table:
    """Reads a file.

    Cells may be lists in columns that are `dropped`; None for any column.
    """
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
    for field in table.schema:
        nested = dropped is not None and pyarrow.types.is_nested(field.type)
        if nested and field.name not in dropped:
            raise DamagedData(
                f"{path}: a cell of the column {field.name!r} is {field.type}, and not "
                "a number or text: give each part a column of its own, or leave it out "
                f"with --data.drop {field.name}."
            )
    columns = [column.to_pylist() for column in table.columns]

    def text(cell: Any) -> str:
        if isinstance(cell, bytes):  # as some programs store texts
            cell = cell.decode("utf-8", "backslashreplace")
        return "" if cell is None else str(cell).strip()

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
    written = lambda cell: _is_decimal(cell) or _WRITTEN.fullmatch(cell)
    words = sum(not written(cell) for cell in odd.values())
    if words < len(cells) / 2:
        row, cell = next(iter(odd.items()))
        raise DamagedData(
            f"{table.where(row)}: {cell!r} is not a number as it stands, and most "
            f"cells of the column {name!r} are numbers. They are written as 1234.5, "
            "without thousands separators, currency or percent, and the cell of a "
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


def _notes_of(
    train: Table, categories: Mapping[str, dict[str, int] | None], label: int
) -> list[str]:
    """How the columns are read, in sentences."""
    values = {n: len(known) for n, known in categories.items() if known is not None}
    notes = [
        f"Columns: {len(categories) - len(values)} of numbers, {len(values)} of "
        f"categories; the label is {train.names[label]!r}.{train.said}"
    ]
    if values:
        each = own.listed_names([f"{name} ({n})" for name, n in values.items()])
        notes.append(f"Columns of categories, with their numbers of values: {each}.")
    rare = [name for name, n in values.items() if 2 * n > len(train.rows)]
    if rare:
        notes.append(
            f"Few rows have the same value in {own.listed_names(rare)}: what is "
            "learned of them, as of dates and ids, says nothing of other rows. "
            "--data.drop leaves columns out."
        )
    return notes


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


def _fit(train: np.ndarray, categories: Mapping[str, dict[str, int] | None]) -> Encoded:
    """Standardised numbers, and 0 or 1 for each category that is in training."""
    numeric = [name for name, known in categories.items() if known is None]
    of_numbers = train[:, [known is None for known in categories.values()]]
    seen = {
        name: [one if number in column else None for one, number in known.items()]
        for (name, known), column in zip(categories.items(), train.T, strict=True)
        if known is not None
    }
    scaled = own.standardise(of_numbers) if numeric else None
    return Encoded(scaled, numeric, seen, [*categories])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which Python reads, and nobody writes


def _unquoted(label: str) -> str:
    """A label without the apostrophes around it, as ARFF files write them."""
    quoted = len(label) > 2 and label[0] == label[-1] == "'"
    return label[1:-1] if quoted else label


def _shortest(label: str) -> str:
    """1 for 1.0 and 1.00, so that two files which write it differently agree.

    Without a point it may be a name, such as 007 or 1E2.
    """
    if "." not in label or not _is_number(label):
        return label
    number = float(label)
    whole = number.is_integer() and abs(number) < _LARGEST_WHOLE
    return str(int(number)) if whole else repr(number)
