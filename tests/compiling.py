"""How far XLA is to optimize what the tests compile, and where that is kept.

Compiling is most of what this suite costs. With `ABSGD_TESTS=quick` XLA leaves out
optimizations, which changes rounding and takes less than half of the time. `make test`
sets it for all tests but those of `BY_DEFAULT` and `EIGHT_BY_DEFAULT` in the Makefile,
which are compiled as users' programs are.

What one process has compiled, the others of the same tests load: they share JAX's
persistent cache, a directory that is made for them. With `JAX_COMPILATION_CACHE_DIR`
they use that one, and leave it: the same tests take 0.6 of the time when it is full.
No operation notes the lines that it comes from, which is a sixth of what compiling is.
"""

import atexit
import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

# Said to a process once, before it starts JAX; so JAX is not asked for its version.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
    # Later versions do not know the flag: they have the new emitters alone.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"

# For this process and those that it starts.
FLAGS = _FLAGS if os.environ.get("ABSGD_TESTS") == "quick" else ""


# Some 25 tests short of the limit, for dropping takes 3 ms a program.
MOST_MAPPINGS = 50_000

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}


def share():
    """Has this process, and those that it starts, use one cache."""
    if _CACHE not in os.environ:
        os.environ[_CACHE] = tempfile.mkdtemp("-compiled")
        atexit.register(shutil.rmtree, os.environ[_CACHE], ignore_errors=True)
    os.environ.update(_SETTINGS)


def drop_if_many():
    """Drops what this process has compiled before there is no room for more.

    Each compiled program takes three of the mappings of memory that Linux lets a
    process have (`vm.max_map_count`, 65,530 by default); without one XLA crashes.
    """
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.is_file() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


def environment(**variables):
    """Of a process that shares the cache but no other setting of this one."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_")) or name in {_CACHE, *_SETTINGS}
        # A proxy would be asked for 127.0.0.1 too.
        if not name.lower().endswith("_proxy")
    }
    return clean | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS} | variables
