"""The tables of a report as CSV and JSON."""

import pathlib
import re
from typing import NamedTuple

from experiments.report import html
from experiments.results import run_log

FOLDER, JSON = "tables", "report.json"

_NAMES = ("label", "prediction")  # columns of names of classes, as is any first one

_PLUS_MINUS = " ± "
_NUMBER = r"[+−]?[0-9][0-9,]*(\.[0-9]+)?"
# Empty where a measure was not taken, a dash where it is not known.
_MEASURE = re.compile(f"({_NUMBER}({_PLUS_MINUS}{_NUMBER})?|–)?")


class Table(NamedTuple):
    """One table."""

    title: str  # the headings above it, and the line that introduces it
    rows: list[list[str]]  # the first one is the head; numbers as programmes read them


def write(report: str, out: pathlib.Path) -> None:
    """Writes tables/NN-TITLE.csv and report.json, replacing an earlier report's."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.csv"):
        old.unlink()
    tables = tables_of(report)
    for index, table in enumerate(tables, start=1):
        slug = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")[:80].strip("-")
        run_log.save_csv(folder / f"{index:02}-{slug}.csv", table.rows)
    run_log.save(out / JSON, {"tables": [table._asdict() for table in tables]})


def tables_of(report: str) -> list[Table]:
    r"""Reads the tables out of a report, as Markdown, in order.

    A column of means ± deviations or errors becomes two.

    Examples:
      >>> rows = ["| run | accuracy |", "|--|--|", "| a | −0.5 ± 0.1 |"]
      >>> (table,) = tables_of("\n".join(["# Title", "", *rows]))
      >>> table.title, table.rows[0], table.rows[1]
      ('Title', ['run', 'accuracy', 'accuracy ±'], ['a', '-0.5', '0.1'])
    """
    tables: list[Table] = []
    headings: dict[str, str] = {}  # by level
    opened = introduction = ""
    for token in html.parser().parse(report):
        if token.type.endswith("_open"):
            opened = token.tag
        if token.type == "heading_open":
            headings = {tag: h for tag, h in headings.items() if tag < token.tag}
            introduction = ""
        elif token.type == "table_open":
            titles = [*headings.values(), introduction.rstrip(":")]
            tables.append(Table(", ".join(filter(None, titles)), []))
        elif token.type == "tr_open":
            tables[-1].rows.append([])
        elif token.type == "inline" and opened in ("th", "td"):
            tables[-1].rows[-1].append(token.content)
        elif token.type == "inline" and opened in ("h1", "h2"):
            headings[opened] = token.content
        elif token.type == "inline":
            introduction = token.content if token.content.endswith(":") else ""
    return [Table(title, _plain(rows)) for title, rows in tables]


def _plain(rows: list[list[str]]) -> list[list[str]]:
    """Numbers without typography; a mean and what follows ± in columns of their own.

    Only in columns of nothing but numbers: any other cell is as it is.
    """
    first, *others = zip(*rows, strict=True)
    columns = [[*first]]
    for name, *cells in others:
        if name in _NAMES or not all(map(_MEASURE.fullmatch, cells)):
            columns.append([name, *cells])
            continue
        parts = [_number(cell).partition(_PLUS_MINUS) for cell in cells]
        columns.append([name, *(mean for mean, _, _ in parts)])
        if any(sign for _, sign, _ in parts):
            columns.append([f"{name} ±", *(spread for _, _, spread in parts)])
    return [list(row) for row in zip(*columns, strict=True)]


def _number(cell: str) -> str:
    """A number as programmes read it."""
    return cell.replace("−", "-").replace(",", "").removeprefix("+")
