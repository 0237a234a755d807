"""Starts programs by forking: what makes a start slow is its imports, made once here.

Run by `programs.py`. Reads lines of JSON: either the function that a new process calls,
with its arguments, its environment and the pipe that it prints to, which is answered
with its process id; or the id of a process to wait for, which is answered with its exit
status: below zero the signal that ended it.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys

import sklearn.datasets  # noqa: F401
import tensorboardX.event_file_writer
import tensorboardX.summary  # noqa: F401
from orbax.checkpoint import v1  # noqa: F401

import experiments.cli
import experiments.presets
import experiments.train.runs  # noqa: F401
import tests.checkpoint_worker
import tests.hosts_worker  # noqa: F401


def die_with_parent():
    """If the tests are killed themselves, nobody is left to end this process."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def call(module, function, arguments, environment, output):
    """What the new process does: its standard input is empty, its output the pipe."""
    die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    # A shell's background jobs ignore SIGINT, what nohup runs SIGHUP, and their
    # children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    return getattr(importlib.import_module(module), function)(*arguments)


def main():
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when nobody asks any more
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # JAX aborts without its hosts
    # The imports stay: looking through them for garbage, in each process, would take as
    # long as what it runs.
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        output = os.open(request.pop("output"), os.O_WRONLY)
        process = os.fork()
        if process == 0:
            return call(output=output, **request)
        os.close(output)
        print(process, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
