"""Meta-Weight-Net: a small network makes weights of losses, and learns on a meta set.

With `V(L; Θ)` of one hidden layer, ReLU and a sigmoid, and C the mean loss of the meta
batch,

    w'(Θ) = w − η mean_i V(L_i; Θ) ∇L_i(w),    Θ ← Θ − Adam(∇_Θ C(w'(Θ))),

and the direction is `mean_i V(L_i; Θ) ∇L_i(w)` with the new Θ. No gradient goes through
the losses that V reads. Shu et al., `Meta-Weight-Net <https://arxiv.org/abs/1902.07379>`_,
Eq. (3) to (5), with the 100 hidden units and the Adam of their code, whose step size of
1e-3 is `step_size` here. Their code also decays Θ, by 1e-4; here it is not.

Θ is drawn as PyTorch draws linear layers, from one key whatever the seed of the run.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import configs
from experiments.methods import _meta_gradient, weighting
from experiments.methods.weighting import WeightingInput, WeightingResult

HIDDEN = 100


class Theta(NamedTuple):
    """Parameters of the weighting network."""

    hidden: jax.Array  # float32 [HIDDEN]: from the loss, the only input
    hidden_bias: jax.Array  # float32 [HIDDEN]
    output: jax.Array  # float32 [HIDDEN]
    output_bias: jax.Array  # float32 []


class NetState(NamedTuple):
    """The weighting network and its optimizer."""

    theta: Theta
    adam: optax.OptState


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from a learned function of the loss."""
    return weighting.Rule(init, gradient, before=weighting.plain)


def init(params: Any, examples: int, classes: int) -> NetState:
    """Initial Θ, uniform within ±1/√inputs."""
    keys = jax.random.split(jax.random.key(0), len(Theta._fields))
    draw = lambda key, shape, inputs: jax.random.uniform(
        key, shape, jnp.float32, -1.0 / math.sqrt(inputs), 1.0 / math.sqrt(inputs)
    )
    theta = Theta(
        draw(keys[0], (HIDDEN,), 1),
        draw(keys[1], (HIDDEN,), 1),
        draw(keys[2], (HIDDEN,), HIDDEN),
        draw(keys[3], (), HIDDEN),
    )
    return NetState(theta, optax.scale_by_adam().init(theta))


def weigh(theta: Theta, losses: jax.Array) -> jax.Array:
    """V, float32 `[batch]`, in (0, 1)."""
    hidden = jax.nn.relu(losses[:, None] * theta.hidden + theta.hidden_bias)
    return jax.nn.sigmoid(hidden @ theta.output + theta.output_bias)


def gradient(weighting_input: WeightingInput, state: NetState) -> WeightingResult:
    """Result by three backward passes, one on the meta set, and a tangent product."""
    at_w = _meta_gradient.linearized(weighting_input)
    # What padding holds must not come to Θ, nor as 0 · ∞.
    losses = jnp.where(weighting_input.present, at_w.losses, 0.0)
    p, pullback = jax.vjp(lambda theta: weigh(theta, losses), state.theta)
    virtual = weighting.cotangent(p, weighting_input.present)
    slope, C = _meta_gradient.derivative(weighting_input, at_w, virtual)
    (gradient,) = pullback(weighting.cotangent(slope, weighting_input.present))

    direction, adam = optax.scale_by_adam().update(gradient, state.adam)
    descend = lambda theta, of: theta - weighting_input.hyperparams.step_size * of
    theta = jax.tree.map(descend, state.theta, direction)
    p = weigh(theta, losses)
    return _meta_gradient.weighted_by(
        weighting_input, at_w, p, NetState(theta, adam), C
    )
