"""The results that the paper reports, from a table.

`paper_tables.csv` next to this file has every number of every table of both versions:
407 rows, 496 numbers. Its first column is the version: `000` is the later one
(imbalance and label noise), `002` the earlier one (only imbalance, with IMDB and
COVID-LT). A row without a mean is one that the paper leaves open.
"""

import csv
import functools
import pathlib
from typing import NamedTuple

VERSIONS = {"000": "later version", "002": "earlier version"}

_FILE = pathlib.Path(__file__).parent / "paper_tables.csv"


class Key(NamedTuple):
    """Which block of rows; the rows differ in the method."""

    version: str  # a key of VERSIONS
    table: int  # its number in that version
    dataset: str
    imbalance: str = "LT"  # or ST, step, symmetric, asymmetric, real noise
    ratio: str = ""  # imbalance ratio or noise rate, as printed; "" where none is given
    backbone: str = ""  # "" for whichever the table has

    def __str__(self) -> str:
        """The caption of the block."""
        return f"{VERSIONS[self.version]}, Table {self.table}"


class Row(NamedTuple):
    """One printed result."""

    version: str
    table: int
    dataset: str
    imbalance: str
    ratio: str
    method: str
    mean: float | None  # percent; None where the paper gives none
    std: float | None  # over runs, percent; None where the paper gives none
    metric: str  # top1 or top5
    backbone: str
    note: str
    printed: str  # mean ± standard deviation, with the digits of the paper

    @property
    def runs(self) -> int | None:
        """Over how many runs the mean is; None where the paper does not say."""
        notes = self.note.split("; ")
        return next((n for n in (3, 5) if f"{n} runs" in notes), None)


class UnknownResult(LookupError):
    """The paper has no such result."""


@functools.cache
def rows() -> tuple[Row, ...]:
    """All 407 rows, in the order of the file.

    Examples:
      >>> rows()[0].method, rows()[0].printed
      ('SGD (CE)', '71.75 ± 0.75')
    """
    with _FILE.open(encoding="utf-8", newline="") as lines:
        return tuple(map(_row, csv.DictReader(lines)))


def _row(line: dict[str, str]) -> Row:
    mean, std = line.pop("mean"), line.pop("std")
    return Row(
        version=line.pop("seed"),
        table=int(line.pop("table")),
        mean=float(mean) if mean else None,
        std=float(std) if std else None,
        printed=" ± ".join(filter(None, (mean, std))),
        **line,
    )


def lookup(key: Key, *methods: str) -> tuple[Row, ...]:
    """The rows of a block, of all methods or of those named as printed.

    They are in the order of the file. Raises UnknownResult where there is no such
    block, or a method that it has no row of.

    Examples:
      >>> block = Key("000", 1, "CIFAR10", "LT", "100")
      >>> [row.printed for row in lookup(block, "SGD (CE)", "ABSGD (CE)")]
      ['71.75 ± 0.75', '72.43 ± 0.31']
    """
    block = [
        row
        for row in rows()
        if (row.version, row.table, row.dataset, row.imbalance, row.ratio) == key[:5]
        and key.backbone in ("", row.backbone)
    ]
    if not block:
        raise UnknownResult(f"The paper has no results under {tuple(key)}.")
    missing = sorted(set(methods) - {row.method for row in block})
    if missing:
        raise UnknownResult(
            f"The {key} has no {', '.join(missing)} under {tuple(key)}; it has "
            f"{', '.join(dict.fromkeys(row.method for row in block))}."
        )
    return tuple(row for row in block if not methods or row.method in methods)
