"""Runs command lines of `python -m experiments`, each in a process of its own.

Everything is imported once, before any of them is made: what makes a start slow is the
imports. See `programs.py`, which runs this.

Reads the arguments of a run as a line of JSON, answers with its process id and, when
the run is over, with its exit status: below zero the signal that ended it. What the run
prints is on standard error, then the line `END`.
"""

import ctypes
import json
import os
import resource
import signal
import sys

import sklearn.datasets  # noqa: F401
import tensorboardX.event_file_writer
import tensorboardX.summary  # noqa: F401

import experiments.presets
import experiments.train.runs  # noqa: F401
from experiments import cli

END = "-- the run is over"


def die_with_parent():
    """If the tests are killed themselves, nobody is left to end this process."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main():
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # JAX aborts without its hosts
    process = None
    for line in sys.stdin:
        if process is not None:
            os.waitpid(process, 0)
        arguments = json.loads(line)
        process = os.fork()
        if process == 0:
            die_with_parent()
            os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            # A shell's background jobs ignore SIGINT, what nohup runs SIGHUP, and
            # their children inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            return cli.main(arguments)
        print(process, flush=True)
        # Reaped by the next one, so that until then its id is nobody else's.
        over = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        print(END, file=sys.stderr, flush=True)
        exited = over.si_code == os.CLD_EXITED
        print(over.si_status if exited else -over.si_status, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
