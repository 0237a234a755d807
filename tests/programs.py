"""The real command line, run many times, and what it leaves in a run directory."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments import cli
from experiments.results import run_log
from tests import compiling

ROOT = pathlib.Path(__file__).parent.parent
# Errors, but for what one process reads of the cache while another writes it.
_UNREADABLE = "Error reading persistent compilation cache entry"
WARNINGS = ("-W", "error", "-W", f"ignore:{_UNREADABLE}:UserWarning")
TIMEOUT = 300  # seconds; that a busy machine may take for anything at all


class Programs:
    """Starts programs, each in a process of its own; see `fork_server`."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, *WARNINGS, "-m", "tests.fork_server"],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            # What is a file here would be one to the streams of the programs too.
            stderr=subprocess.PIPE,
            # A process that has threads must not be forked.
            # Lines are written whole, or those of two threads would mix.
            env=compiling.environment(OPENBLAS_NUM_THREADS="1", PYTHONUNBUFFERED=""),
        )  # fmt: skip
        self._folder = tempfile.TemporaryDirectory()
        self._started = []

    def start(self, *words, **environment):
        """Starts `python -m experiments`, with variables besides the usual ones."""
        return self.call(cli.main, [str(word) for word in words], **environment)

    def call(self, function, *arguments, **environment):
        """Starts a process that calls it; its arguments go there as JSON."""
        pipe = pathlib.Path(self._folder.name, str(len(self._started)))
        os.mkfifo(pipe)
        program = Program(self._ask, pipe)
        program.process = self._ask(
            module=function.__module__, function=function.__name__,
            arguments=arguments, environment=compiling.environment(**environment),
            output=str(pipe),
        )  # fmt: skip
        self._started.append(program)
        return program

    def run(self, *words, **environment):
        """Starts it and waits for its end."""
        program = self.start(*words, **environment)
        program.end()
        return program

    def stop(self):
        """Kills what a test has left running."""
        for program in self._started:
            if program.status is None:
                program.end(9)

    def close(self):
        self.stop()
        self._server.communicate()
        self._folder.cleanup()

    def _ask(self, **request):
        """The number that the server answers with."""
        self._server.stdin.write(json.dumps(request, default=str) + "\n")
        self._server.stdin.flush()
        ready, _, _ = select.select([self._server.stdout], [], [], TIMEOUT)
        assert ready, [p.said for p in self._started if p.status is None]
        return int(self._server.stdout.readline())


class Program:
    """A process.

    Attributes:
      process: its id.
      status: its exit status once it has been waited for, before that None.
    """

    def __init__(self, ask, pipe):
        self.process = self.status = None
        self._ask, self._pipe, self._lines = ask, pipe, []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self, number=None):
        """Its exit status; a signal may help it to end."""
        if number is not None:
            os.kill(self.process, number)
        self.status = self._ask(wait=self.process)
        self._reader.join(TIMEOUT)
        return self.status

    def wait_for(self, condition):
        """Until it holds, or the program is over."""
        wait_until(lambda: condition() or not self._reader.is_alive())

    @property
    def said(self):
        """What it has printed until now, on standard output and error."""
        return "".join(self._lines)

    def _read(self):
        with self._pipe.open() as pipe:
            for line in pipe:
                self._lines.append(line)


class Shell:
    """Runs command lines in this process, where none has to be killed."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *words):
        """Exit status, and what is printed on standard output and error."""
        self._capsys.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as stopped:  # as any command line ends that cannot be read
            status = stopped.code
        return status, *self._capsys.readouterr()

    def printed(self, *words):
        """The standard output of a command that succeeds."""
        status, printed, said = self(*words)
        assert status == 0, said
        return printed

    def refused(self, status, message, *words):
        """Asserts the exit status and the message, wherever its lines are broken."""
        found, _, said = self(*words)
        said = " ".join(re.sub("[│╭╮╰╯─]", " ", said).split())
        assert found == status, said
        assert message in said, said


@contextlib.contextmanager
def reserved_address():
    """Where a coordinator can listen, and nobody else before it does."""
    with socket.socket() as reserved:
        # Bound without listening, and shared as gRPC shares its ports.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def rows(text):
    """The rows of a CSV file's text, each by the names of the columns."""
    return list(csv.DictReader(io.StringIO(text)))


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
