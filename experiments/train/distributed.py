"""A training of several processes: they join, lock its directory and end together."""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import configs
from experiments.results import run_dir
from experiments.train.progress import say
from experiments.train.session import Session

# Seconds after which a host that is lost, and one that failed, stops the others; JAX's
# own are minutes. See docs/hosts.md.
HEARTBEAT, SHUTDOWN = 10, 60
JOIN = 300  # seconds to wait for hosts that are not there yet


def join(session: Session) -> None:
    """Connects this process to the others of a distributed training."""
    own, count = session.process, session.processes
    waits, others = "This process waits", "the others of the cluster"
    if own is not None and count is not None:
        waits = f"Process {own} of {count} waits"
        numbers = [str(other) for other in range(count) if other != own]
        others = f"process{'es' * (count > 2)} {', '.join(numbers)}"
    where = f" at {session.coordinator}" if session.coordinator else ""
    say(f"{waits} for {others}{where}; after {JOIN} s it stops.")
    try:
        jax.distributed.initialize(
            session.coordinator,
            session.processes,
            session.process,
            initialization_timeout=JOIN,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except ValueError as error:  # it lacks what no cluster tells
        raise configs.BadConfiguration(str(error)) from error
    say(
        f"Process {jax.process_index()} of {jax.process_count()} begins. If a host is "
        "lost, the others stop too; start the same commands again on all hosts, and "
        "they go on from the last checkpoint."
    )


def raise_together(problem: Exception | None, elsewhere: Exception) -> None:
    """Raises the problem of the first host, if it has one; the others, `elsewhere`."""
    if multihost_utils.broadcast_one_to_all(np.array(problem is not None)):
        raise problem or elsewhere


@contextlib.contextmanager
def locked(out: pathlib.Path) -> Iterator[None]:
    """Locks a run directory: the first host does, and all are refused if it is."""
    with contextlib.ExitStack() as stack:
        problem: Exception | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(run_dir.lock(out))
            except (configs.BadConfiguration, OSError) as error:
                problem = error
        elsewhere = f"The first host cannot train in {out}; see what it says."
        raise_together(problem, configs.BadConfiguration(elsewhere))
        yield


@contextlib.contextmanager
def bounded_wait(dispatches: Callable[[], int], seconds: float) -> Iterator[None]:
    """Ends this process if the number of dispatches has stayed the same so long.

    No exception would do: the main thread waits in a collective.
    """
    over = threading.Event()

    def watch() -> None:
        seen, since = -1, time.monotonic()
        while not over.wait(1.0):
            if (now := dispatches()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > seconds:
                say(
                    f"Process {jax.process_index()} of {jax.process_count()} stops: no "
                    f"update for {seconds:g} s (--stall-timeout-seconds). Another "
                    "process hangs, perhaps in reading its data, or is slow to "
                    "evaluate. Start the same commands again on all hosts, and they go "
                    "on from the last checkpoint."
                )
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
