"""Tables of a report for other programs, Markdown as a page, and errors of `report`."""

import json
import pathlib
import re
from unittest import mock

import pytest

from experiments import commands, configs
from experiments.report import command, formatting, tables
from experiments.results import run_dir, run_log
from experiments.studies import results_page
from experiments.train import evaluation

ROOT = pathlib.Path(__file__).parents[1]

NAMES = ["+1", "-1", "1,000", "a ± b", "−2 ± 1"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_written_as_they_are_and_numbers_for_programs(name):
    shown = [
        ["class", "training examples", "last epoch", "label", "remark"],
        [name, "1,000", "−71.5 ± 0.5", name, "1,000"],
        ["b", "20", "+3.0", name, "yes"],
        ["c", "0", "–", name, ""],
    ]
    (table,) = tables.tables_of("\n".join(formatting.markdown(shown)))
    assert table.rows == [
        ["class", "training examples", "last epoch", "last epoch ±", "label", "remark"],
        [name, "1000", "-71.5", "0.5", name, "1,000"],
        ["b", "20", "3.0", "", name, "yes"],
        ["c", "0", "–", "", name, ""],
    ]


def test_the_page_of_results_shows_no_markdown(tmp_path):
    (tmp_path / "figures").symlink_to(ROOT / "docs" / "figures")
    out, page = tmp_path / "results.md", tmp_path / "results.html"
    config = commands.Results(records=ROOT / "results", out=out, html=page)
    assert results_page.main(config) == 0
    text = page.read_text(encoding="utf-8")
    assert '<a href="methods.md">Methods</a>' in text
    assert re.search(r"<strong>[^<]* ± [^<]*</strong>", text)
    assert "as <code>python -m experiments toy</code> takes it" in text
    command = "python -m experiments compare digits_label_noise --methods \\\n    sgd"
    assert f"<pre><code>{command}" in text
    shown = re.sub("<[^>]*>", "", text)
    assert "**" not in shown
    assert "`" not in shown


def test_an_error_of_the_data_is_not_one_of_the_directory(tmp_path, monkeypatch):
    config = {"preset": None, "run": configs.Run(), "class_counts": [5, 5]}
    text = json.dumps(run_log.to_jsonable(config | {"versions": {}}))
    (tmp_path / run_dir.CONFIG).write_text(text)
    (tmp_path / run_dir.RECORDS).touch()
    unreadable = mock.Mock(side_effect=PermissionError("my.npz"))
    monkeypatch.setattr(evaluation, "features", unreadable)
    with pytest.raises(PermissionError, match=re.escape("my.npz")):
        command.main(commands.Report(dirs=(tmp_path,), features=True))
