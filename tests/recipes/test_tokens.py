"""The recipe of tokens: by token as it stands, and by sequence as its prose says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.recipes import checks, program

NAME = "tokens"


def batches(module):
    rng = np.random.default_rng(5)
    return [module.sequences(rng, 24) for _ in range(checks.STEPS)]


def start(module):
    params = module.init(jax.random.key(1))
    return params, module.tx.init(params)


def step_of(module):
    return lambda carry, *batch: module.train_step(*carry, *batch)[:2]


def train(module):
    carry = start(module)
    for batch in batches(module):
        carry = step_of(module)(carry, *batch)
    return carry[0]


def token_losses(params, carry, inputs, targets, mask):
    """Cross-entropy to 0.9 of the target and 0.1 of the mean over the vocabulary."""
    log_p = jax.nn.log_softmax(params["embed"][inputs] @ params["head"])
    of_target = jnp.take_along_axis(log_p, jnp.asarray(targets)[..., None], -1)[..., 0]
    return -0.9 * of_target - 0.1 * log_p.mean(axis=-1)


def sequence_losses(params, carry, inputs, targets, mask):
    losses = token_losses(params, carry, inputs, targets, mask)
    return (losses * mask).sum(axis=1) / mask.sum(axis=1)


@pytest.fixture(params=["token", "sequence"])
def example(request, monkeypatch):
    """What is weighted; sequences as in the recipe's prose."""
    if request.param == "sequence":
        ordinary, source = program.ordinary(NAME), checks.alternative(NAME)
        monkeypatch.setattr(program, "ordinary", lambda name: ordinary)
        monkeypatch.setattr(program, "_source", lambda name: source)
    return request.param


def test_updates_are_those_of_algorithm_1(example):
    losses_of, weights_of = token_losses, lambda inputs, targets, mask: mask
    if example == "sequence":
        losses_of = sequence_losses
        weights_of = lambda inputs, targets, mask: mask.sum(axis=1)
    module = program.load(NAME, lam=checks.LAM)
    checks.follows_algorithm_1(
        step_of(module), losses_of, lambda carry: carry[0], start(module),
        batches(module), optimizer=checks.Sgd(rate=0.3), weights_of=weights_of,
    )  # fmt: skip


def test_losses_at_padding_may_be_anything():
    module = program.load(NAME, lam=checks.LAM)
    carry = start(module)
    inputs, targets, mask = batches(module)[0]
    expected = step_of(module)(carry, inputs, targets, mask)[0]
    losses = module.token_losses
    module = program.load(NAME, lam=checks.LAM)
    module.token_losses = lambda params, inputs, targets: jnp.where(
        mask, losses(params, inputs, targets), jnp.nan
    )
    got = step_of(module)(carry, inputs, targets, mask)[0]
    np.testing.assert_allclose(checks.flat(got), checks.flat(expected), rtol=1e-6)


def test_a_floor_under_the_losses_changes_no_update():
    """As label smoothing is one, for all tokens the same."""
    carry = start(program.load(NAME))
    updates = []
    for floor in (0.0, 1.0):
        module = program.load(NAME, lam=checks.LAM)
        losses = module.token_losses
        module.token_losses = lambda *a, losses=losses, floor=floor: losses(*a) + floor
        updates.append(checks.flat(step_of(module)(carry, *batches(module)[0])[0]))
    np.testing.assert_allclose(*updates, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("example")
def test_with_infinite_lam_it_is_the_ordinary_program():
    """By sequence too: the lengths are the weights."""
    checks.is_the_ordinary_program(NAME, train)
