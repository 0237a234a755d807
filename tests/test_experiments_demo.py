"""The demo, from end to end."""

import json
import signal
import subprocess
import sys

from experiments.cli import main
from experiments.results import aggregate
from experiments.studies import grid


def test_the_demo_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    assert main(["demo", "--seeds", "1", "--epochs", "2", "--out", str(out)]) == 0

    shared = json.loads((out / grid.GRID).read_text())
    assert {"long-tail", "label-noise"} < shared.keys()

    runs = [aggregate.read(directory) for directory in (out / grid.TRAININGS).iterdir()]
    assert len(runs) == 2 * 4  # studies, λs with SGD's
    for result in runs:
        assert result.finished
        tested = [event["test"] is not None for event in result.epochs]
        assert tested == [False, True]

    table = (out / "table.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    for row in ("| SGD ", "| ABSGD ", "| difference "):
        assert table.count(row) == 2
    assert (out / "demo.png").is_file()
    assert (out / "mine.txt").read_text() == "kept"


def test_an_interrupt_keeps_what_is_finished(programs, tmp_path):
    program = programs.start(
        "demo", "--seeds", "1000", "--epochs", "1", "--out", tmp_path
    )

    def records():
        return {*tmp_path.glob("runs/*/records.jsonl")}

    # Until every method has finished the first seed of the first study.
    program.wait_for(lambda: len(records()) >= 5)
    finished = records()
    assert program.end(signal.SIGINT) == 130, program.said
    assert "Interrupted" in program.said
    assert "Traceback" not in program.said
    assert sum(aggregate.read(path.parent).finished for path in finished) >= 4
    assert "| ABSGD " in program.said
    assert "| ABSGD " in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "demo.png").exists()


def test_help_lists_the_commands_without_importing_what_trains():
    code = (
        "import sys; from experiments import cli\n"
        "heavy = {'jax', 'flax', 'optax', 'matplotlib'}\n"
        "try: cli.main(['--help'])\n"
        "finally: assert not heavy & {*sys.modules}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    for command in ("demo", "train", "compare", "sweep", "report"):
        assert command in done.stdout
