"""The optimizers of the recipes in NumPy float64, on the oracle's directions."""

import jax
import numpy as np


def tree64(tree):
    """A tree's arrays as NumPy float64."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def tree32(tree):
    """A tree's arrays as NumPy float32, to be given back to the recipe's network."""
    return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)


def direction(attention, losses_of, params):
    """Eq. (2)'s direction from the network's own losses; the oracle's s moves on.

    Args:
      attention: a `tests.oracle.Attention`.
      losses_of: parameters to losses [batch], the recipe's network on one batch.
      params: tree of float64.
    """
    losses = losses_of(tree32(params))
    jacobian = tree64(jax.jacrev(losses_of)(tree32(params)))
    share = attention.weights(losses) / np.size(losses)
    return jax.tree.map(lambda J: np.tensordot(share, J, share.ndim), jacobian)


class MomentumSGD:
    """`v ← β v + G`, then `w ← w − η v`."""

    def __init__(self, params, rate, momentum=0.9):
        self.params = tree64(params)
        self.rate, self.momentum = rate, momentum
        self.v = jax.tree.map(np.zeros_like, self.params)

    def step(self, gradient):
        self.v = jax.tree.map(lambda v, g: self.momentum * v + g, self.v, gradient)
        self.params = jax.tree.map(lambda w, v: w - self.rate * v, self.params, self.v)
