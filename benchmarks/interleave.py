"""Times the variants of a benchmark in turn, each in a process of its own.

A child reads one JSON object per line and answers each with one. `{"build": {...}}`
compiles the described step and returns facts about it; `{"run": k}` runs k steps and
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
from typing import Any

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
QUOTED = 4000  # characters of a dead child's standard error

Request = dict[str, Any]


class Died(Exception):
    """A child ended, or does not answer; quotes its standard error."""


def call(function: Callable[..., Any], **arguments: Any) -> Request:
    """Describes to a `WORKER` what to build: a call of a function, for JSON."""
    name = f"{function.__module__}:{function.__name__}"
    return {"function": name, "arguments": arguments}


class Child:
    """A process that times its own steps on request, a `WORKER` by default.

    `environment` adds variables to those of this process; None removes one.
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

    def send(self, request: Request) -> None:
        """Sends a request without waiting for the answer; may raise `Died`."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError:
            raise self._died() from None

    def receive(self) -> dict[str, Any]:
        """Waits for the answer to the oldest open request; may raise `Died`."""
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], TIMEOUT)[0]:
            self._given_up = True
            raise Died(f"{self.name} has not answered for {TIMEOUT:g} seconds.")
        line = stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def ask(self, request: Request) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises `Died` if there is none."""
        self.send(request)
        return self.receive()

    def run(self, steps: int) -> float:
        """Runs so many steps, and returns their seconds."""
        return self.ask({"run": steps})["seconds"]

    def _died(self) -> Died:
        try:
            status = self._process.wait(_LAST)
        except subprocess.TimeoutExpired:
            status = "unknown"
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip()[-QUOTED:]
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


class Runner:
    """The processes and the settings that all suites share."""

    def __init__(self, config: commands.Bench) -> None:
        self.config = config
        self.suite = ""  # the one that is measured, for messages
        self.messages: list[str] = []  # of that suite so far
        self._workers: list[Child] = []

    def say(self, message: str) -> None:
        """Prints a message about progress, or about a group that is left out."""
        self.messages.append(message)
        print(f"{self.suite}: {message}", file=sys.stderr, flush=True)

    def workers(self, names: Sequence[str]) -> dict[str, Child]:
        """Returns a `WORKER` for each name.

        Those of the call before end, unless `quick`, where they serve later variants
        too. That saves seconds for each, and times of tiny sizes are not read.
        """
        if not self.config.quick:
            self.close()
        self._workers += [Child(name) for name in names[len(self._workers) :]]
        for name, child in zip(names, self._workers, strict=False):
            child.name = name
        return dict(zip(names, self._workers, strict=False))

    def group(
        self,
        title: str,
        variants: Mapping[str, Request],
        facts: dict[str, Any] | None = None,
        *,
        torch: Mapping[str, tuple[Sequence[str], Request]] | None = None,
        why_not: Callable[[dict[str, Any]], str] = lambda facts: "",
        steps: Mapping[str, int] | None = None,
        rounds: int | None = None,
    ) -> Group:
        """Compiles variants in parallel and times them in turn; may raise `Died`.

        Args:
          title: of the group.
          variants: what each variant builds, by name; the first is the baseline.
          facts: that the variants share.
          torch: variants of other commands, which are told the baseline's platform.
          why_not: from the facts of the baseline, why none is to be run, or "".
          steps: see `measure`.
          rounds: samples of each; None for those of the configuration.
        """
        self.say(title)
        baseline = next(iter(variants))
        with contextlib.ExitStack() as stack:
            children = self.workers(list(variants))
            known = build(children, variants)
            if torch:
                platform = {"platform": known[baseline]["platform"]}
                others = {
                    name: stack.enter_context(contextlib.closing(Child(name, command)))
                    for name, (command, _) in torch.items()
                }
                asked = {name: one | platform for name, (_, one) in torch.items()}
                known, children = known | build(others, asked), children | others
            reason = why_not(known[baseline])
            samples: dict[str, list[float]] = {name: [] for name in children}
            taken = dict.fromkeys(children, 0)
            if not reason:
                samples, taken = measure(
                    {name: child.run for name, child in children.items()},
                    rounds=rounds or self.config.repeats,
                    sample_seconds=0.002 if self.config.quick else 0.2,
                    steps=steps,
                )
        measured = {
            name: Measured(known[name], samples[name], taken[name]) for name in known
        }
        return Group(title, facts or {}, measured, (baseline,), reason)

    def close(self) -> None:
        """Ends all workers."""
        while self._workers:
            self._workers.pop().close()


def build(
    children: Mapping[str, Child], variants: Mapping[str, Request]
) -> dict[str, dict[str, Any]]:
    """Builds variants in parallel, and returns the facts of each; may raise `Died`."""
    for name, child in children.items():
        child.send({"build": variants[name]})
    return {name: child.receive() for name, child in children.items()}


def measure(
    runs: Mapping[str, Callable[[int], float]],
    *,
    rounds: int,
    sample_seconds: float = 0.0,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times variants in turn, in another order every round; may raise `Died`.

    Args:
      runs: for each variant a function from a number of steps to their seconds.
      rounds: samples of each.
      sample_seconds: least seconds of a sample of the fastest variant.
      steps: steps of a sample, by name; None for as many as `sample_seconds` takes, the
        same for all.
      seed: of the order.

    Returns:
      Seconds per step in every round, by name; and the number of steps of a sample.
    """
    for run in runs.values():
        run(WARM_UP if steps is None else 1)
    if steps is None:
        took = [run(1) for _ in range(3) for run in runs.values()]
        count = max(1, math.ceil(sample_seconds / max(statistics.median(took), 1e-7)))
        steps = dict.fromkeys(runs, count)
    order, found = list(runs), {name: [] for name in runs}
    shuffled = random.Random(seed)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            found[name].append(runs[name](steps[name]) / steps[name])
    return found, dict(steps)
