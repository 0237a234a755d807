"""Processes that save checkpoints, for `test_experiments_checkpoint.py`."""

import functools
import pathlib

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.train import checkpoint


def checkpoints(folder, log=None, keep=3):
    return checkpoint.Checkpoints(
        folder, keep=keep, log=[].append if log is None else log
    )


def numbers(step, size=1000):
    """A state that says of which step it is, in every leaf and bit."""
    rng = np.random.default_rng(step)
    arrays = {
        "params": {"w": rng.normal(size=(size // 8, 8)).astype(np.float32)},
        "s": np.float32(step),
        "step": np.int32(step),
        "key": rng.integers(2**32, size=2, dtype=np.uint32),
    }
    return jax.device_put(arrays, jax.local_devices()[0])


def assert_same(state, expected):
    """Down to the devices and the bits."""
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert (a.sharding, a.committed) == (b.sharding, b.committed)
        if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        copies = [np.asarray(shard.data) for shard in a.addressable_shards]
        wanted = [np.asarray(shard.data) for shard in b.addressable_shards]
        for copy, want in zip(copies, wanted, strict=True):
            assert (copy.dtype, copy.shape) == (want.dtype, want.shape)
            assert copy.tobytes() == want.tobytes()


@functools.partial(jax.jit, donate_argnums=0)
def add_one(tree):
    """In the memory where the arrays are."""
    return jax.tree.map(lambda x: x + 1, tree)


# One process.


SIZE = 400_000  # numbers of the state that is killed; some tens of ms to write


def endless(folder):
    """Goes on from where it is, and saves at every step until it is killed."""
    with checkpoints(folder, lambda line: print("log", line, flush=True)) as saved:
        step, state, _ = saved.restore(numbers(0, SIZE)) or (0, numbers(0, SIZE), {})
        assert_same(state, numbers(step, SIZE))
        while True:
            step += 1
            print("begun", step, flush=True)
            saved.save(step, numbers(step, SIZE), {"step": step})
            print("written", max(saved.steps(), default=0), flush=True)


# Several devices and hosts.


def mesh_of_all():
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def spread(state):
    """Every other leaf the same on all devices, the rest cut up over them."""
    mesh = mesh_of_all()
    everywhere, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

    def place(leaf, sharding):
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return {
        "same": jax.tree.map(lambda leaf: place(np.asarray(leaf), everywhere), state),
        "cut": place(np.arange(64, dtype=np.float32), cut),
        "key": jax.jit(lambda: jax.random.key(7), out_shardings=everywhere)(),
    }


def eight_devices(folder):
    """Takes up the state of one device, overwrites its memory, and saves it."""
    jax.config.update("jax_num_cpu_devices", 8)
    with checkpoints(folder) as saved:
        expected = spread(numbers(1))
        step, state, _ = saved.restore(spread(numbers(0)))
        assert step == 1
        assert_same(state, expected)
        state["same"] = add_one(state["same"])
        assert_same(state["same"], add_one(expected["same"]))
        saved.save(2, state, {})
        add_one(state["same"])
    assert not saved.failures


def hosts(folder, host, address):
    """One of two hosts: saves, cannot save for once, and takes up a damaged run."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, host)
    folder = pathlib.Path(folder)
    log = []
    with checkpoints(folder, log.append) as saved:
        assert saved.restore(spread(numbers(0))) is None
        saved.save(1, spread(numbers(1)), {})
        saved.wait()
        if jax.process_index() == 0:
            (folder / "unfinished").write_text("in the way")
        saved.save(2, spread(numbers(2)), {})
        assert [failure.step for failure in saved.failures] == [2], log
        if jax.process_index() == 0:
            (folder / "unfinished").unlink()
        saved.save(3, spread(numbers(3)), {})
        saved.wait()
        if jax.process_index() == 0:
            (folder / "3" / checkpoint.METADATA).unlink()
        step, state, _ = saved.restore(spread(numbers(0)))
        assert step == 1
        assert_same(state, spread(numbers(1)))
        assert ("Going on from checkpoint 1." in log) == (jax.process_index() == 0)
        saved.save(3, spread(numbers(3)), {})
    assert len(saved.failures) == 1, log
