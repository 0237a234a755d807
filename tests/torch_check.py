"""The PyTorch variants of the benchmarks: `make test-torch TORCH_PYTHON=PATH`.

The path is that of an interpreter that has PyTorch, which no other test needs.
"""

import contextlib
import os

from benchmarks.interleave import Child
from benchmarks.suites import peers
from tests.test_experiments_bench import PARAMETERS


def test_the_torch_worker_builds_and_runs_the_same_network():
    command = (os.environ["TORCH_PYTHON"], "-I", str(peers.SCRIPT))
    size = {"batch": 4, "blocks": (5, 5, 5), "widths": (16, 32, 64)}
    with contextlib.closing(Child("torch", command)) as child:
        package = bool(child.ask({})["absgd"])
        for request in peers.pytorch(package, **size).values():
            built = child.ask({"build": request | {"platform": "cpu"}})
            assert built["parameters"] == PARAMETERS
            assert child.run(2) > 0.0
