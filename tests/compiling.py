"""How far XLA is to optimize what the tests compile.

Compiling is most of what this suite costs. `make test` sets `ABSGD_TESTS=quick`: then
XLA leaves out optimizations, which changes rounding and takes less than half of the
time, and the modules of `BY_DEFAULT` are compiled as users' programs are, in processes
of their own. Without the variable all but the smoke presets is compiled by
default.
"""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
QUICK = os.environ.get("ABSGD_TESTS") == "quick"

# Said to a process once, before it starts JAX; so JAX is not asked for its version.
FLAGS = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
    # Later versions do not know the flag: they have the new emitters alone.
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

# What the other processes of a suite are given.
GIVEN = FLAGS if QUICK else ""

# The weights, Algorithm 1, what a step costs, and ABSGD at λ = ∞ against `optax.sgd`.
BY_DEFAULT = (
    "test_attention",
    "test_costs_guard",
    "test_experiments_sgd",
    "test_transform",
)


def passed(*tests, flags=""):
    """How many tests passed in a process of their own; all must.

    Args:
      *tests: their names, from the root of the repository.
      flags: for XLA.
    """
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    report = result.stdout[-8000:] + result.stderr[-2000:]
    assert result.returncode == 0, report
    (count,) = re.findall(r"^(\d+) passed", result.stdout, re.MULTILINE)
    return int(count)
