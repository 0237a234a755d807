"""Mesh and shardings: one axis, over which batches are sharded."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.configs import BadConfiguration

AXIS = "batch"


class Layout(NamedTuple):
    """A mesh of one axis and its shardings, on one host or several."""

    mesh: Mesh
    replicated: NamedSharding
    spread: NamedSharding  # over the first axis of an array

    @property
    def devices(self) -> int:
        """Number of devices, of all hosts."""
        return self.mesh.size

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this host's devices hold."""
        mine = [
            number
            for number, device in enumerate(self.mesh.devices.flat)
            if device.process_index == jax.process_index()
        ]
        each = batch_size // self.devices
        return slice(mine[0] * each, (mine[-1] + 1) * each)

    def shard(self, batch: Any) -> Any:
        """Shards a batch, a tree of `[rows, ...]`; every host provides its own rows.

        Returns the same tree of arrays `[batch, ...]`.
        """
        if jax.process_count() == 1:
            return jax.device_put(batch, self.spread)
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(self.spread, rows),
            batch,
        )

    def replicate(self, tree: Any) -> Any:
        """Copies a tree to every device; it must be the same on every host."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        return jax.tree.map(
            lambda array: jax.make_array_from_callback(
                np.shape(array), self.replicated, np.asarray(array).__getitem__
            ),
            tree,
        )


def layout(devices: int | None = None) -> Layout:
    """Makes the mesh of so many devices, or of all, on all hosts.

    Raises BadConfiguration if there are not so many, or, on several hosts, if not all
    are taken.
    """
    there = jax.devices()
    count = len(there) if devices is None else devices
    if count > len(there):
        raise BadConfiguration(
            f"devices must be at most {len(there)}, which is how many "
            f"{there[0].platform.upper()} devices there are, got {count}."
        )
    if jax.process_count() > 1 and count < len(there):
        raise BadConfiguration(
            f"On several hosts all of their {len(there)} devices are used, got "
            f"devices = {count}."
        )
    mesh = jax.make_mesh(
        (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=there[:count]
    )
    return Layout(
        mesh,
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(AXIS)),
    )
