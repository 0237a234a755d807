"""Settings for the whole suite."""

import contextlib
import gc
import itertools
import os
import signal

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from hypothesis import settings

from tests import compiling

_flags = os.environ.get("XLA_FLAGS", "")
# JAX fixes the number of CPU devices when it starts; the other tests keep the one that
# a user has.
collect_ignore = [] if "device_count=8" in _flags else ["eight_devices"]
if compiling.FLAGS not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} {compiling.FLAGS}"
compiling.share()

# Tracing makes so many lasting objects that looking for garbage takes a tenth of the
# time at Python's own thresholds.
gc.set_threshold(200_000, 50, 1000)

# Compilation makes first calls slow, and a failure must be the same one tomorrow.
settings.register_profile("jax", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("jax")

# The longest. Last, one of them would leave the other cores idle; those whose tests
# share what they set up come before what can be shared out.
FIRST = (
    "test_experiments_recovery",
    "test_experiments_hosts",
    "test_hosts",
    "test_experiments_every_preset",
)


def pytest_collection_modifyitems(items):
    rank = {module: number for number, module in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(FIRST)))


def pytest_collection_finish():
    """What is imported by now lasts, and is not to be looked through again."""
    gc.collect()
    gc.freeze()


_finished = itertools.count(1)


def pytest_runtest_logfinish():
    if next(_finished) % 25 == 0:
        compiling.drop_if_many()


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, by the names of their files."""
    from matplotlib.figure import Figure

    saved, save = {}, Figure.savefig

    def savefig(figure, path, **kwargs):
        save(figure, path, **kwargs)
        saved[path.name] = figure

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


@pytest.fixture(scope="session")
def server():
    """Starts programs that have all imports already, see `tests/programs.py`."""
    from tests.programs import Programs

    with contextlib.closing(Programs()) as programs:
        yield programs


@pytest.fixture
def programs(server):
    """The same; what a test leaves running is killed."""
    yield server
    server.stop()


@pytest.fixture
def shell(capsys):
    """Runs command lines in this process, see `tests/programs.py`."""
    from tests.programs import Shell

    return Shell(capsys)


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore SIGINT, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
