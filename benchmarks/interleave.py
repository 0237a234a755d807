"""Times the variants of a benchmark in turn, each in a process of its own.

A child reads one JSON object per line and answers each with one. `{"build": {...}}`
compiles the described steps and returns facts about them; `{"run": k}` runs k steps and
returns their `seconds`. It ends when its standard input does.
"""

import contextlib
import json
import math
import os
import pathlib
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from benchmarks.summary import Group, Measured
from experiments import commands

ROOT = pathlib.Path(__file__).parents[1]  # of the repository
WORKER = (sys.executable, "-m", "benchmarks.worker")
TIMEOUT = 3600.0  # seconds for one answer
PAUSE = 0.01  # seconds between samples, in which the last child's threads go to sleep
WARM_UP = 2  # steps before any is timed

# All children share the devices' memory, so none preallocates it.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_LAST = 10.0  # seconds that a child has to end by itself
_QUOTED = 4000  # characters of a dead child's standard error


class Died(Exception):
    """A child ended, or does not answer; quotes its standard error."""


class Child:
    """A process that times its own steps on request.

    Args:
      name: for messages.
      command: what runs; None: `WORKER`.
      environment: variables added to this process's own; None removes one.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self.name = name
        self._given_up = False
        variables = _ENVIRONMENT | os.environ | dict(environment or {})
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the child
        self._process = subprocess.Popen(
            list(command or WORKER),
            cwd=ROOT,
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    def send(self, request: dict[str, Any]) -> None:
        """Sends a request without waiting for the answer.

        Raises:
          Died: the child has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError:
            raise self._died() from None

    def receive(self) -> dict[str, Any]:
        """Waits for the answer to the oldest open request.

        Raises:
          Died: the child has ended, or does not answer.
        """
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], TIMEOUT)[0]:
            self._given_up = True
            raise Died(f"{self.name} has not answered for {TIMEOUT:g} seconds.")
        line = stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises `Died` if there is none."""
        self.send(request)
        return self.receive()

    def _died(self) -> Died:
        try:
            status = self._process.wait(_LAST)
        except subprocess.TimeoutExpired:
            status = "unknown"
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip()[-_QUOTED:]
        return Died(f"{self.name} ended with status {status}:\n{errors}")

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
        try:
            self._process.wait(0.0 if self._given_up else _LAST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Workers:
    """Processes of `worker`, a new one for each variant.

    Args:
      reuse: whether a process serves later variants too, which saves seconds for each
        and suits tests, which do not read the times.
    """

    def __init__(self, reuse: bool) -> None:
        self._reuse = reuse
        self._there: list[Child] = []

    def take(self, names: Sequence[str]) -> dict[str, Child]:
        """Returns a process for each name; those of the previous call end."""
        if not self._reuse:
            self.close()
        self._there += [Child(name) for name in names[len(self._there) :]]
        taken = dict(zip(names, self._there, strict=False))
        for name, child in taken.items():
            child.name = name
        return taken

    def close(self) -> None:
        """Ends all processes."""
        while self._there:
            self._there.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Setting(NamedTuple):
    """The arguments of every suite.

    Attributes:
      config: sizes, and number of samples.
      workers: processes that measure.
      say: called with messages about progress, and about groups that are left out.
    """

    config: commands.Bench
    workers: Workers
    say: Callable[[str], None]

    def group(
        self,
        title: str,
        described: Mapping[str, dict[str, Any]],
        facts: dict[str, Any] | None = None,
        why_not: Callable[[dict[str, Any]], str] = lambda facts: "",
        steps: Mapping[str, int] | None = None,
    ) -> Group:
        """Compiles variants in parallel and times them in turn.

        Args:
          title: of the group.
          described: what each variant builds, by name; the first is the baseline.
          facts: that the variants share.
          why_not: from the facts of the baseline, why none is to be run, or "".
          steps: see `measure`.

        Returns:
          The measured group.

        Raises:
          Died: the process of a variant did.
        """
        self.say(title)
        children = self.workers.take(list(described))
        known = build(children, described)
        baseline = next(iter(described))
        reason = why_not(known[baseline])
        samples: dict[str, list[float]] = {name: [] for name in described}
        taken = dict.fromkeys(described, 0)
        if not reason:
            samples, taken = measure(
                children,
                rounds=self.config.rounds,
                sample_seconds=self.config.sample_seconds,
                steps=steps,
            )
        variants = {
            name: Measured(known[name], samples[name], taken[name])
            for name in described
        }
        return Group(title, facts or {}, variants, (baseline,), reason)


def build(
    several: Mapping[str, Child], described: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Builds all variants in parallel.

    Args:
      several: the children.
      described: what each builds.

    Returns:
      The facts of each.

    Raises:
      Died: a child did.
    """
    for name, child in several.items():
        child.send({"build": described[name]})
    return {name: child.receive() for name, child in several.items()}


def measure(
    several: Mapping[str, Child],
    *,
    rounds: int,
    sample_seconds: float,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times children in turn, in another order every round.

    Args:
      several: children that have built a variant.
      rounds: samples of each.
      sample_seconds: least seconds of a sample of the fastest child.
      steps: steps of a sample, by name; None for as many as `sample_seconds` takes, the
        same for all.
      seed: of the order.

    Returns:
      Seconds per step in every round, by name; and the number of steps of a sample.

    Raises:
      Died: a child did.
    """
    for child in several.values():
        child.ask({"run": WARM_UP if steps is None else 1})
    if steps is None:
        took = [_seconds(child, 1) for _ in range(3) for child in several.values()]
        count = max(1, math.ceil(sample_seconds / max(statistics.median(took), 1e-7)))
        steps = dict.fromkeys(several, count)
    order, found = list(several), {name: [] for name in several}
    shuffled = random.Random(seed)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            found[name].append(_seconds(several[name], steps[name]))
    return found, dict(steps)


def _seconds(child: Child, steps: int) -> float:
    return child.ask({"run": steps})["seconds"] / steps
