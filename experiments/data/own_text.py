"""Your own texts: CSV with a column of text, or .txt files in a subfolder a class.

Files have the form of `aclImdb`: `PATH/CLASS/*.txt`, or `PATH/train/CLASS/*.txt` with
`test` and `val` where you have them. Tokens, and the vocabulary of the training texts,
are those of `text`.
"""

import pathlib

import numpy as np

from experiments import configs
from experiments.data import own, own_table, text
from experiments.data.types import DamagedData, Dataset, MissingData


def load(data: configs.Data) -> Dataset:
    """Loads texts; see `datasets`."""
    path = own.path_of(data)
    if _in_folders(path):
        parts = from_folders(path)
        notes = own.unused_beside_classes(path, (".txt",))
    else:
        parts, notes = _from_tables(data)

    def fit(train: np.ndarray) -> text.Tokenizer:
        known = text.vocabulary(train.tolist(), data.vocabulary)
        return text.Tokenizer(known, data.length)

    return own.dataset(parts, data, "text", (data.length,), fit, notes=notes)


def from_folders(path: pathlib.Path, ignored: str = "unsup") -> dict[str, own.Part]:
    """The texts of a directory by split, but those of the folder `ignored`."""
    parts = {}
    for split, files in own.listed(path, (".txt",), "text").items():
        kept = [(file, label) for file, label in files if label != ignored]
        where = lambda index, kept=kept: str(kept[index][0])
        texts = [_read(file) for file, _ in kept]
        parts[split] = own.Part(_array(texts), [label for _, label in kept], where)
    return parts


def unlabelled(
    path: pathlib.Path, data: configs.Data
) -> tuple[np.ndarray, list[str] | None]:
    """Other texts: .txt files of a folder, lines of one, or the column of a CSV.

    Texts are `StringDType` `[n]`; then the paths of the files of a folder, else None.
    """
    if path.is_dir():
        files = own.files_below(path, (".txt",))
        if not files:
            raise MissingData(f"{path} has no .txt file, nor have its subfolders.")
        return _array([_read(file) for file in files]), [*map(str, files)]
    if path.suffix.lower() == ".txt":
        # Not `splitlines`, which ends a line at other characters too.
        lines = [line for line in _read(path).split("\n") if line.strip()]
        if not lines:
            raise DamagedData(f"{path} has no text.")
        return _array(lines), None
    name, label = data.text, None
    if data.info.own and not _in_folders(own.path_of(data)):
        train = own_table.read(own_table.files(data)["train"], data)
        label = own_table.label_of(train, data.label)
        name = train.names[_text_of(train, name, label)]
    else:
        train = own_table.Table(path, [], [], ())  # whose columns have names, too
    table = own_table.read(path, data, train, label)
    if name is None and not {n.lower() for n in table.names} & {*own_table.TEXTS}:
        raise DamagedData(
            f"{path} must have a first row with the names of its columns, one of them "
            f"{', '.join(own_table.TEXTS)}, got {own.listed_names(table.names)}. A "
            ".txt file with a text in each line has no names."
        )
    column = _text_of(table, name, -1)
    return _array([row[column] for row in table.rows]), None


def _from_tables(data: configs.Data) -> tuple[dict[str, own.Part], list[str]]:
    """The texts of CSV files by split, and how they are read, in sentences."""
    tables = own_table.tables(data)
    train = tables["train"]
    label = own_table.label_of(train, data.label)
    column = _text_of(train, data.text, label)
    parts = {
        name: own.Part(
            _array([row[table.column(train.names[column])] for row in table.rows]),
            table.labels(table.column(train.names[label])),
            table.where,
        )
        for name, table in tables.items()
    }
    notes = (
        f"Columns: the text is {train.names[column]!r}, the label "
        f"{train.names[label]!r}.{train.said}"
    )
    return parts, [notes, *own_table.unused(data)]


def _in_folders(path: pathlib.Path) -> bool:
    """Whether texts are files in folders, not the cells of a table."""
    return path.is_dir() and "train" not in own.below(path, own_table.SUFFIXES)


def _text_of(table: own_table.Table, name: str | None, label: int) -> int:
    """The index of the column of text: of that name, or the one to be expected."""
    if name is not None:
        return table.column(name)
    lower = [column.lower() for column in table.names]
    for expected in own_table.TEXTS:
        if expected in lower and lower.index(expected) != label:
            return lower.index(expected)
    others = [index for index, n in enumerate(lower) if n and index != label]
    if not others:
        raise DamagedData(f"{table.path} has no column but the label.")
    return max(others, key=lambda index: sum(len(row[index]) for row in table.rows))


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedData(f"{file} is not text in UTF-8: {error}.") from error
    except OSError as error:
        raise DamagedData(f"{file}: {error.strerror}.") from error


def _array(texts: list[str]) -> np.ndarray:
    return np.array(texts, np.dtypes.StringDType())
