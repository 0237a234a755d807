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


def lookup(key: Key) -> tuple[Row, ...]:
    """The rows of a block, in the order of the file.

    Examples:
      >>> block = lookup(Key("000", 1, "CIFAR10", "LT", "100"))
      >>> block[0].method, block[0].printed
      ('SGD (CE)', '71.75 ± 0.75')
    """
    return tuple(
        row
        for row in rows()
        if (row.version, row.table, row.dataset, row.imbalance, row.ratio) == key[:5]
        and key.backbone in ("", row.backbone)
    )
