"""One host of several, for `test_hosts.py`.

Each host is a process with devices of its own and reads its own rows of every batch.
"""

import pathlib

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from tests import problems

STEPS = 8
PADDED_HOST = 1  # the host whose rows are padding where rows are
FILLINGS = ("full", "padded")
# The step is cut up by XLA, or written for one device. Not every route is here by both,
# for compiling on every host is what takes the time: `eight_devices` has more.
PROGRAMS = (
    ("value", "jit"),
    ("microbatches", "jit"),
    ("pullback", "shard_map"),
)


def optimizer_for(route, axis_name=None):
    """λ changes on the way, so that the count has to be right on every host too."""
    lam = absgd_jax.two_stage(0.5, 3)
    if route in ("value", "microbatches"):  # these gradients are global already
        attention = problems.transform("value", lam, 0.5)
    else:
        attention = problems.transform(route, lam, 0.5, axis_name=axis_name)
    return optax.chain(attention, optax.sgd(0.1, momentum=0.9))


def make_step(route, axis_name=None):
    """(params, state, x, labels, weights, where) to params, state and updates."""
    optimizer = optimizer_for(route, axis_name)

    def step(params, state, x, labels, weights, where):
        in_parts = route == "microbatches"
        return problems.route_step(
            "tilted" if in_parts else route, optimizer, params, state, x, labels,
            micro=len(x) // 2 if in_parts else None, axis_name=axis_name,
            sample_weights=weights, where=where,
        )  # fmt: skip

    return optimizer, step


def rows_of_host(host, hosts, padded):
    """x, labels, weights and where, `[steps, rows, ...]`: all that this host reads."""
    rows = problems.BATCH // hosts
    x, labels, weights = (
        a[:, host * rows : (host + 1) * rows] for a in problems.batches(STEPS)
    )
    where = np.ones(labels.shape, bool)
    if padded and host == PADDED_HOST:
        # What stands in the padding must not matter.
        x, where = np.full_like(x, 1e4), ~where
    return (
        x.astype(np.float32), labels.astype(np.int32), weights.astype(np.float32), where
    )  # fmt: skip


def program(mesh, route, spread):
    """The compiled step and its initial arguments, the same on every device."""
    everywhere = NamedSharding(mesh, P())
    if spread == "jit":
        optimizer, step = make_step(route)
    else:
        optimizer, step = make_step(route, axis_name="data")
        step = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(), *[P("data")] * 4), out_specs=P()
        )
    params = {"w": problems.initial_params()["w"].astype(np.float32)}
    start = jax.device_put((params, optimizer.init(params)), everywhere)
    return jax.jit(step, out_shardings=everywhere), start


def global_batches(mesh, padded=False):
    """One batch a step: no host has the rows of another."""
    mine = rows_of_host(jax.process_index(), jax.process_count(), padded)
    batches = [
        [
            jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), rows)
            for rows in batch
        ]
        for batch in zip(*mine, strict=True)
    ]
    x = batches[0][0]
    assert x.shape[0] == problems.BATCH
    here = sum(len(shard.data) for shard in x.addressable_shards)
    assert here == problems.BATCH // jax.process_count()
    return batches


def copies(tree):
    """The leaves, `[local devices, ...]`: the copy that every device here holds."""
    return [
        np.stack([np.asarray(shard.data) for shard in leaf.addressable_shards])
        for leaf in jax.tree.leaves(tree)
    ]


def attention_of(state):
    """Its scalars by name; no weight is bounded here."""
    named = absgd_jax.attention_state(state)._asdict()
    assert named.pop("bound") is None
    return named


def train(mesh, folder):
    """Every program, for a few steps; what this host holds then goes to a file."""
    results = {}
    batches = {
        filling: global_batches(mesh, filling == "padded") for filling in FILLINGS
    }
    for route, spread in PROGRAMS:
        step, start = program(mesh, route, spread)
        for filling in FILLINGS:
            params, state = start
            updates = []
            for batch in batches[filling]:
                params, state, update = step(params, state, *batch)
                updates += copies(update)
            case = f"{route}/{spread}/{filling}"
            results[f"{case}/updates"] = np.stack(updates, axis=1)
            (results[f"{case}/params"],) = copies(params)
            for name, leaf in attention_of(state).items():
                (results[f"{case}/{name}"],) = copies(leaf)
    np.savez(folder / f"{jax.process_index()}.npz", **results)


def main(folder, devices, address, host, hosts):
    """Runs one of the hosts.

    Args:
      folder: where it leaves its results.
      devices: how many this host has.
      address: the coordinator's.
      host: the number of this one.
      hosts: how many there are.
    """
    jax.config.update("jax_num_cpu_devices", devices)
    jax.distributed.initialize(
        coordinator_address=address,
        coordinator_bind_address=address,  # the default listens on every interface
        num_processes=hosts,
        process_id=host,
        initialization_timeout=60,
    )
    assert jax.process_count() == hosts
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    train(mesh, pathlib.Path(folder))


def experiments(heartbeat, *words):
    """The command line, on a host that misses another after so many seconds."""
    from experiments import cli
    from experiments.train import distributed

    distributed.HEARTBEAT = heartbeat
    return cli.main(list(words))
