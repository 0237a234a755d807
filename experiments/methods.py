"""From a config to an Optax chain; ABSGD and its baseline alike."""

import jax
import jax.numpy as jnp
import optax

import absgd_jax
from experiments import configs


def learning_rate(optimizer: configs.Optimizer, total_steps: int) -> optax.Schedule:
    """η: constant, then divided once.

    Args:
      optimizer: its value, when it drops, by what.
      total_steps: updates in the whole training.

    Returns:
      A schedule: step -> η.
    """
    drop_step = int(optimizer.drop_at * total_steps)
    return optax.piecewise_constant_schedule(
        optimizer.learning_rate, {drop_step: 1.0 / optimizer.drop_factor}
    )


def build(
    optimizer: configs.Optimizer,
    attention: configs.Attention,
    total_steps: int,
    lam: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Momentum SGD, by attention from `attention.start_at` on.

    SGD is the case λ = ∞, to the last bit: s_0 is left out, so that weights average
    one from the first step. Then one compiled program serves both, with λ as an
    argument, and up to the switch the two train alike.

    Args:
      optimizer: what SGD and ABSGD share.
      attention: what ABSGD adds.
      total_steps: updates in the whole training.
      lam: λ after the switch, scalar; may be traced.

    Returns:
      An Optax transform of the pullback of per-example losses.
    """
    switch_step = int(attention.start_at * total_steps)
    return absgd_jax.absgd(
        learning_rate(optimizer, total_steps),
        absgd_jax.two_stage(lam, switch_step, first=jnp.inf),
        attention.gamma,
        momentum=optimizer.momentum,
        weight_decay=optimizer.weight_decay,
        init_s=None,
    )
