"""The demo, from end to end."""

import json
import signal
import subprocess
import sys
import time

import pytest

from experiments.cli import main
from experiments.results import run_log


def _command(*arguments):
    return [sys.executable, "-m", "experiments", *arguments]


def test_the_demo_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "records.jsonl").write_text("overwritten\n")
    assert main(["demo", "--seeds", "2", "--epochs", "2", "--out", str(out)]) == 0

    config = json.loads((out / "config.json").read_text())
    assert [study["name"] for study in config["studies"]] == [
        "long-tail",
        "label-noise",
    ]
    assert {"jax", "flax", "optax"} <= config["versions"].keys()

    records = run_log.read(out / "records.jsonl")
    runs = {(r["study"], r["method"], r["lam"], r["seed"]) for r in records}
    assert len(runs) == 2 * 4 * 2  # studies, λs with SGD's, seeds
    assert len(records) == 2 * len(runs)  # a line an epoch
    assert sum("test" in r for r in records) == len(runs)

    table = (out / "table.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    for row in ("| SGD ", "| ABSGD ", "| difference "):
        assert table.count(row) == 2
    assert (out / "demo.png").is_file()
    assert (out / "mine.txt").read_text() == "kept"


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_finished(tmp_path):
    path = tmp_path / "records.jsonl"
    arguments = ("demo", "--seeds", "1000", "--epochs", "1", "--out", str(tmp_path))
    with subprocess.Popen(
        _command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        # Until every method has finished the first seed of the first study.
        deadline = time.monotonic() + 300.0
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finished = path.read_bytes()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60.0)

    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    assert path.read_bytes().startswith(finished[: finished.rindex(b"\n") + 1])
    assert len(run_log.read(path)) >= 5  # every line parses
    assert "| ABSGD " in stdout
    assert "| ABSGD " in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "demo.png").exists()


def test_help_lists_the_commands_without_importing_jax():
    code = (
        "import sys; from experiments import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: assert 'jax' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    for command in ("demo", "train", "compare", "sweep", "report"):
        assert command in done.stdout


def test_a_wrong_value_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):  # as any command line ends that cannot be read
        main(["demo", "--seeds", "0", "--out", str(tmp_path / "demo")])
    said = "".join(capsys.readouterr())
    assert "seeds must be at least 1, got 0" in said
    assert not (tmp_path / "demo").exists()
