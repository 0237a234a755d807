"""BatchNorm that does not depend on padding and sharding; and GroupNorm."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Norm = Callable[..., nnx.Module]  # (channels, rngs=...), then (x, present) -> x


class BatchNorm(nnx.Module):
    """BatchNorm over the examples that are present, on all devices together.

    On a whole batch on one device this is `nnx.BatchNorm`. That one averages the
    devices' masked means with equal weights; where the last batch of an epoch leaves
    more examples to one device than to another, this is not the batch's mean. Here sums
    and counts are added over devices, and divided once.

    As in Flax the running variance averages the biased variance of the batch, the one
    that it is normalised by; PyTorch's averages n / (n - 1) times as much. A device
    with no example present adds nothing, and a batch with none updates no statistics.
    """

    def __init__(
        self,
        channels: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Scales by one, shifts by zero; `channels` is the size of the last axis.

        `momentum` is the decay of the running statistics. `axis_name` is that of the
        `pmap`, `shard_map` or `vmap` over which the batch is sharded; None where it is
        whole, as it is under `jit` for any sharding.
        """
        self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (channels,)))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (channels,)))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.momentum = momentum
        self.epsilon = epsilon
        self.axis_name = axis_name
        self.use_running_average = False  # set by `train` and `eval` of any module

    def __call__(self, x: jax.Array, present: jax.Array | None = None) -> jax.Array:
        """Normalises float `[batch, ..., channels]`, in float32 at least.

        In training it updates the running statistics by the examples that are
        `present`, bool `[batch]`; None if all are.
        """
        dtype, x = x.dtype, _raised(x)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._moments(x, present)
        factor = lax.rsqrt(var + self.epsilon) * self.scale[...]
        shift = self.bias[...] - mean * factor
        # So no `x - mean` is kept for the backward pass, as large as x.
        per_channel = (*[1] * (x.ndim - 1), -1)
        y = x * factor.reshape(per_channel) + shift.reshape(per_channel)
        return y.astype(dtype)

    def _moments(
        self, x: jax.Array, present: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of each channel, which the running ones move towards."""
        # In one pass over x, as Flax does. Sums are per example first: padding is
        # masked in an array [batch, channels], not in a copy of x.
        inside = tuple(range(1, x.ndim - 1))
        of_each = (jnp.sum(x, inside), jnp.sum(jnp.square(x), inside))
        if present is None:
            where, count, kept = None, math.prod(x.shape[:-1]), self.momentum
        else:
            where = present[:, None]
            count = jnp.sum(present, dtype=x.dtype) * math.prod(x.shape[1:-1])
        sums = [jnp.sum(each, 0, where=where) for each in of_each]
        if self.axis_name is not None:
            *sums, count = lax.psum((*sums, count), self.axis_name)
        if present is not None:
            kept = jnp.where(count > 0, self.momentum, 1.0)
            count = jnp.maximum(count, 1.0)
        mean, square = (each / count for each in sums)
        var = jnp.maximum(0.0, square - jnp.square(mean))

        self.mean[...] = kept * self.mean[...] + (1.0 - kept) * mean
        self.var[...] = kept * self.var[...] + (1.0 - kept) * var
        return mean, var


class GroupNorm(nnx.GroupNorm):
    """GroupNorm of at least 16 channels per group, which does not mix examples.

    The group is the smallest that divides the channels: 16 of 64, 28 of 196, and all
    where there are fewer than 16.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        """Scales by one, shifts by zero; `channels` is the size of the last axis."""
        sizes = (size for size in range(16, channels) if channels % size == 0)
        size = next(sizes, channels)
        super().__init__(
            channels, num_groups=None, group_size=size, epsilon=1e-5, rngs=rngs
        )

    def __call__(self, x: jax.Array, present: jax.Array | None = None) -> jax.Array:
        """Normalises float `[batch, ..., channels]`; ignores `present`."""
        del present
        return super().__call__(_raised(x)).astype(x.dtype)


def _raised(x: jax.Array) -> jax.Array:
    """In float32, or a wider type that it has."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
