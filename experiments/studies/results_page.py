"""The page of all records in `results/`, in Markdown and HTML."""

import pathlib

from experiments import commands, configs
from experiments.report import html
from experiments.results import run_log
from experiments.studies import equal_grids_report, figures_report, reproduce_report

REPRODUCE, EQUAL_GRIDS = "reproduce.jsonl", "equal_grids.jsonl"
FIGURES = "figures.jsonl"


def main(config: commands.Results) -> int:
    """Writes the page, as HTML too if it is asked for; returns 0."""
    text = page(config.records)
    config.out.write_text(text, encoding="utf-8")
    print(config.out)
    if config.html is not None:
        rendered = html.page(text, config.out.parent, "backticks")
        config.html.write_text(rendered, encoding="utf-8")
        print(config.html)
    return 0


def page(folder: pathlib.Path) -> str:
    """The page, as Markdown.

    Args:
      folder: of the records.

    Raises:
      BadConfiguration: there are no records of `reproduce`, or a line is none.
    """
    names = (REPRODUCE, EQUAL_GRIDS, FIGURES)
    read = [run_log.events(folder / name) for name in names]
    (found, grids, figures), torn = zip(*read, strict=True)
    if any(torn) or not found:
        raise configs.BadConfiguration(
            f"{folder} has {len(found)} records of reproduce, and {sum(torn)} lines "
            "that are none."
        )
    lines = [
        *reproduce_report.sections(found, REPRODUCE),
        *_apart(equal_grids_report.last_layer(grids)),
        *_apart(equal_grids_report.tables(grids)),
        *_apart(figures_report.section(figures)),
        "",
        "## Not run",
        "",
        *reproduce_report.not_run(found),
    ]
    return "\n".join(lines) + "\n"


def _apart(section: list[str]) -> list[str]:
    """A section after an empty line, if there is one."""
    return ["", *section] if section else []
