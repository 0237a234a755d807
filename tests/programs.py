"""The real command line, run many times, and what it leaves in a run directory."""

import contextlib
import json
import os
import pathlib
import select
import subprocess
import sys
import threading
import time

import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments.results import run_log
from tests import compiling
from tests.recovery_worker import END

ROOT = pathlib.Path(__file__).parent.parent
TIMEOUT = 300  # seconds; that a busy machine may take for anything at all


class Programs:
    """Runs one command line after the other; see `recovery_worker`.

    Args:
      environment: variables for all of them.
    """

    def __init__(self, **environment):
        self._server = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.recovery_worker"],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A process that has threads must not be forked.
            env=compiling.environment(OPENBLAS_NUM_THREADS="1", **environment),
        )  # fmt: skip
        self._lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._process, self._over = None, True

    def start(self, *arguments):
        """Its process id. What ran before, if a test left it running, is killed."""
        if not self._over:
            self.end(9)
        self._lines.clear()
        self._server.stdin.write(json.dumps([str(word) for word in arguments]) + "\n")
        self._server.stdin.flush()
        self._process, self._over = self._answer(), False
        return self._process

    def end(self, number=None):
        """Its exit status; a signal may help it to end."""
        if number is not None:
            os.kill(self._process, number)
        status = self._answer()
        self._over = True
        wait_until(lambda: END + "\n" in self._lines)
        return status

    def run(self, *arguments):
        self.start(*arguments)
        return self.end()

    def wait_for(self, condition):
        """Until it holds, or the program is over."""
        wait_until(
            lambda: condition() or select.select([self._server.stdout], [], [], 0)[0]
        )

    @property
    def said(self):
        """What the program has printed since it was started."""
        return "".join(self._lines).replace(END + "\n", "")

    def close(self):
        self._server.kill()
        self._server.wait()
        self._reader.join()
        for stream in (self._server.stdin, self._server.stdout, self._server.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read(self):
        for line in self._server.stderr:
            self._lines.append(line)

    def _answer(self):
        ready, _, _ = select.select([self._server.stdout], [], [], TIMEOUT)
        assert ready, self.said
        line = self._server.stdout.readline()
        assert line, self.said  # the worker has died
        return int(line)


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Run directories.


def saved(out):
    """The steps of the checkpoints."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(out / "checkpoints")
        return sorted(int(name) for name in names if name.isdigit())
    return []


def newest(out):
    return max(saved(out), default=0)


def state(out):
    """The leaves of the newest checkpoint by name, and what it says of them."""
    folder = out / "checkpoints" / str(newest(out))
    note = json.loads((folder / "metadata.json").read_text())
    like = {}
    for name, described in note["state"].items():  # such as float32[3, 4]
        dtype, _, shape = described.partition("[")
        like[name] = np.zeros(json.loads("[" + shape), dtype)
    with_values = {name: leaf for name, leaf in like.items() if leaf.size}
    return like | ocp.load(folder, with_values), note


def events(out, kind):
    found, _ = run_log.events(out / "records.jsonl")
    return [event for event in found if event["event"] == kind]


def resumed(out):
    return [event["step"] for event in events(out, "resumed")]


def epochs(out):
    """Their events without what depends on the machine."""
    found = events(out, "epoch")
    assert [event["epoch"] for event in found] == list(range(1, len(found) + 1))
    for event in found:
        del event["seconds"], event["waited"]
    return found
