"""How far XLA is to optimize what the tests compile.

Compiling is most of what this suite costs. With `ABSGD_TESTS=quick` XLA leaves out
optimizations, which changes rounding and takes less than half of the time. `make test`
sets it for all tests but those of `BY_DEFAULT` and `EIGHT_BY_DEFAULT` in the Makefile,
which are compiled as users' programs are.
"""

import importlib.metadata
import os

# Said to a process once, before it starts JAX; so JAX is not asked for its version.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
    # Later versions do not know the flag: they have the new emitters alone.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"

# For this process and those that it starts.
FLAGS = _FLAGS if os.environ.get("ABSGD_TESTS") == "quick" else ""
