"""Laws that hold of every recipe: Algorithm 1 step by step, and SGD where λ is ∞.

Batches are as large as those of the scripts, which then need not compile a step again.
"""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

import absgd_jax
from tests.oracle import Attention
from tests.recipes import program

LAM, STEPS = 0.7, 4


class Sgd:
    """SGD with momentum in NumPy: from a direction [parameters] to an update.

    `params` is for those that need more than the direction.
    """

    def __init__(self, rate=0.1, momentum=0.9):
        self.rate, self.momentum, self.trace = rate, momentum, 0.0

    def __call__(self, direction, params):
        del params
        self.trace = self.momentum * self.trace + direction
        return -self.rate * self.trace


@functools.cache
def digits(steps=STEPS, batch=64):
    """A list of batches (images, labels) of handwritten digits."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    places = np.split(np.arange(steps * batch), steps)
    return [(images[each], labels[each]) for each in places]


def alternative(name):
    """The source of a recipe as the block of code in its prose would have it.

    Each line of the block stands in place of the marked line that begins as it does.
    """
    source = (program.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# ```python\n(.*?)^# ```\n", source, re.M | re.S)
    for line in block.splitlines():
        line = line.removeprefix("# ")
        start = re.match(r" *(return|[^=]+=)", line)[0]
        marked = rf"^{re.escape(start)}.*# was: .*$"
        source, count = re.subn(marked, lambda _, line=line: line, source, flags=re.M)
        assert count == 1
    return source


def flat(tree):
    """All parameters as one float64 vector."""
    return np.asarray(ravel_pytree(tree)[0], np.float64)


def losses_and_gradient(losses_of, params, carry, *batch, x64=True, compiled=False):
    """Losses [*batch], and the gradient [parameters] of a weighted sum of them."""
    call = _compiled if compiled else lambda function, *args: function(*args)
    with jax.enable_x64(x64):
        if x64:
            params, batch = _wide((params, batch))
        losses, pullback = jax.vjp(
            lambda params: call(losses_of, params, carry, *batch), params
        )
        assert losses.dtype == (jnp.float64 if x64 else jnp.float32)

    def gradient(weights):
        with jax.enable_x64(x64):
            return flat(pullback(jnp.asarray(weights, losses.dtype))[0])

    return np.asarray(losses, np.float64), gradient


@functools.partial(jax.jit, static_argnums=0)
def _compiled(function, *args):
    return function(*args)


def _wide(tree):
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64 if floating(x) else x.dtype), tree
    )


def follows_algorithm_1(
    step, losses_of, params_of, carry, batches, *,
    lam=LAM, optimizer=None, weights_of=lambda *batch: None, x64=True, rtol=1e-5,
    s_of=absgd_jax.normalizer, compiled=False,
):  # fmt: skip
    """Every update is the optimizer's on Eq. (2)'s direction, s carried along.

    Args:
      step: one step of the recipe, `(carry, *batch) -> carry`.
      losses_of: `(params, carry, *batch) -> losses [*batch]`, at a step's parameters.
      params_of: from what a step carries to its parameters.
      carry: what the first step is given.
      batches: one tuple a step.
      lam: λ of the recipe.
      optimizer: in NumPy, `(direction, params) -> update`; `Sgd()` by default.
      weights_of: `(*batch) -> v [*batch]`, 0 for padding.
      x64: whether losses are differentiated in float64, or in the recipe's own float32
        (random keys give other numbers in float64).
      rtol: of the largest entry of an update.
      s_of: from what a step carries to Algorithm 1's s; None where it is hard to find.
      compiled: whether `losses_of` is, which takes less time where it can be given
        what a step carries.
    """
    attention, optimizer = Attention(lam), Sgd() if optimizer is None else optimizer
    for batch in batches:
        before = params_of(carry)
        losses, gradient = losses_and_gradient(
            losses_of, before, carry, *batch, x64=x64, compiled=compiled
        )
        v = weights_of(*batch)
        v = np.ones_like(losses) if v is None else v
        direction = gradient(v * attention.weights(losses, v) / v.sum())
        ordinary = gradient(v / v.sum())
        assert np.abs(direction - ordinary).max() > 0.01 * np.abs(ordinary).max()
        expected = optimizer(direction, before)
        carry = step(carry, *batch)
        update = flat(params_of(carry)) - flat(before)
        # Of parameters about one in float32, and of an update that sums up to them.
        atol = rtol * np.abs(expected).max() + 2e-7
        np.testing.assert_allclose(update, expected, rtol=0, atol=atol)
        if s_of is not None:
            np.testing.assert_allclose(s_of(carry), attention.s, rtol=rtol)
    return carry


def is_the_ordinary_program(name, train, rtol=0.0, atol=2e-6):
    """The recipe trains as the program that it was made from where its λ begins, at ∞.

    Args:
      name: of the recipe.
      train: trains some steps by a recipe's module, and returns parameters and whatever
        else is to be the same.
      rtol: relative to each number.
      atol: added to it.

    Returns:
      What the ordinary program made.
    """
    got, expected = train(program.load(name)), train(program.ordinary(name))
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)
    return expected


def runs(name, capsys):
    """As a script it trains: the mean loss that it prints falls."""
    program.load(name).main()
    printed = capsys.readouterr().out
    before, after = map(float, re.findall(r"(?:mean loss|->) (\d+\.\d+)", printed))
    assert after < before
