"""Conditional value at risk: the mean over the largest losses of the batch.

With the B losses in falling order, rank `r_i` from 0, and α the share that counts,
`p_i = min(max(αB − r_i, 0), 1) / α`: the largest weigh 1/α, the one on the boundary
the rest, and all together average one. Levy, Carmon, Duchi and Sidford, `Large-Scale
Methods for Distributionally Robust Optimization <https://arxiv.org/abs/2010.05893>`_,
estimate the objective on a batch in this way. α = 1 is the plain mean, α ≤ 1/B the
maximum. Ties are broken by the index in the batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from the ranks of the losses. The rule has no state."""
    return weighting.by_losses(weigh)


def weigh(weighting_input: WeightingInput, state: tuple[()], losses: jax.Array) -> Any:
    """The weights whose gradient is that of the conditional value at risk."""
    present = weighting_input.present
    cvar_alpha = weighting_input.hyperparams.cvar_alpha
    order = jnp.lexsort((-losses, ~present))  # padding last, whatever its losses
    ranks = jnp.zeros_like(losses).at[order].set(jnp.arange(losses.size))
    p = jnp.clip(cvar_alpha * jnp.sum(present) - ranks, 0.0, 1.0) / cvar_alpha
    return p, state, weighting.mean(p * losses, present)
