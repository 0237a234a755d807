"""The demo, through its real command line."""

import json
import signal
import subprocess
import sys
import time

import pytest

from experiments.results import aggregate
from experiments.studies import grid


def _command(*arguments):
    return [sys.executable, "-m", "experiments", *arguments]


def test_the_demo_from_end_to_end(tmp_path):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    done = subprocess.run(
        _command("demo", "--seeds", "2", "--epochs", "2", "--out", str(out)),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr

    shared = json.loads((out / grid.GRID).read_text())
    assert {"long-tail", "label-noise"} < shared.keys()

    runs = [aggregate.read(directory) for directory in (out / grid.TRAININGS).iterdir()]
    assert len(runs) == 2 * 4 * 2  # studies, λs with SGD's, seeds
    for result in runs:
        assert result.finished
        tested = [event["test"] is not None for event in result.epochs]
        assert tested == [False, True]

    table = (out / "table.md").read_text(encoding="utf-8")
    assert table in done.stdout
    for row in ("| SGD ", "| ABSGD ", "| difference "):
        assert table.count(row) == 2
    assert (out / "demo.png").is_file()
    assert (out / "mine.txt").read_text() == "kept"


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_finished(tmp_path):
    arguments = ("demo", "--seeds", "1000", "--epochs", "1", "--out", str(tmp_path))
    with subprocess.Popen(
        _command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        # Until every method has finished the first seed of the first study.
        deadline = time.monotonic() + 120.0
        while len(finished := {*tmp_path.glob("runs/*/records.jsonl")}) < 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60.0)

    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    assert sum(aggregate.read(path.parent).finished for path in finished) >= 4
    assert "| ABSGD " in stdout
    assert "| ABSGD " in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "demo.png").exists()


def test_help_is_instant_and_lists_the_commands():
    for arguments in (("--help",), ("demo", "--help")):
        began = time.monotonic()
        done = subprocess.run(
            _command(*arguments), capture_output=True, check=True, encoding="utf-8"
        )
        assert time.monotonic() - began < 5.0  # importing JAX and Flax would add it
        assert "demo" in done.stdout


def test_a_wrong_value_is_refused_before_anything_is_written(tmp_path):
    done = subprocess.run(
        _command("demo", "--seeds", "0", "--out", str(tmp_path / "demo")),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode != 0
    assert "seeds must be at least 1, got 0" in done.stderr + done.stdout
    assert not (tmp_path / "demo").exists()
