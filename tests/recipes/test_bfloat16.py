"""The recipe of bfloat16: what is rounded to eight bits, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import absgd_jax
from tests.oracle import Attention
from tests.recipes import checks, program

NAME, LAM = "bfloat16", 0.3


def start(module):
    params = module.init(jax.random.key(1))
    return params, module.tx.init(params)


def train(module):
    carry = start(module)
    for batch in checks.digits():
        *carry, _ = module.train_step(*carry, *batch)
    return jax.tree.map(lambda p: p.astype(jnp.float32), carry[0])


def test_in_float32_updates_are_those_of_algorithm_1():
    def example_losses(params, carry, images, labels):
        logits = jax.nn.relu(images @ params["features"]) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    module = program.load(NAME, lam=LAM)
    module.DTYPE = jnp.float32
    checks.follows_algorithm_1(
        lambda carry, *batch: module.train_step(*carry, *batch)[:2],
        example_losses, lambda carry: carry[0], start(module), checks.digits(),
        lam=LAM,
    )  # fmt: skip


def test_in_bfloat16_s_is_that_of_the_programs_own_losses():
    """And updates are Algorithm 1's, as far as bfloat16 goes."""
    module, attention, sgd = program.load(NAME, lam=LAM), Attention(LAM), checks.Sgd()
    carry = start(module)
    for batch in checks.digits():
        params, opt_state = carry
        of = lambda params, batch=batch: module.example_losses(params, *batch)
        losses, jacobian = checks.losses_and_jacobian(of, params, x64=False)
        expected = sgd(attention.direction(losses, jacobian), params)
        *carry, _ = module.train_step(params, opt_state, *batch)
        s = absgd_jax.normalizer(carry[1])
        assert float(s) == pytest.approx(attention.s / (1 - attention.share), rel=1e-3)
        # Parameters and gradients are rounded by up to 1/256 of themselves.
        error = checks.flat(carry[0]) - checks.flat(params) - expected
        assert np.linalg.norm(error) < 0.1 * np.linalg.norm(expected)


def test_lam_and_the_momentum_keep_their_dtypes():
    module = program.load(NAME, lam=LAM)
    carry = start(module)
    dtypes = lambda carry: jax.tree.map(lambda leaf: leaf.dtype, carry)
    *after, _ = module.train_step(*carry, *checks.digits()[0])
    assert dtypes(tuple(after)) == dtypes(carry)
    assert after[0]["head"].dtype == jnp.bfloat16
    state = absgd_jax.attention_state(after[1])
    assert state.lam == jnp.float32(LAM)
    assert state.tilted_loss.dtype == jnp.float32


def test_without_hyperparam_dtype_lam_is_rounded():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = optax.inject_hyperparams(absgd_jax.absgd)(0.1, lam=0.3).init(params)
    assert float(absgd_jax.attention_state(state).lam) == 0.30078125


def test_without_static_args_the_momentum_turns_to_float32():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    inject = optax.inject_hyperparams(absgd_jax.absgd, hyperparam_dtype=jnp.float32)
    tx = inject(0.1, lam=0.3)
    before = tx.init(params)
    _, after = tx.update(params, before, params, value=jnp.float32(1.0))
    trace = lambda state: jax.tree.leaves(state)[-1].dtype
    assert (trace(before), trace(after)) == (jnp.bfloat16, jnp.float32)


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)
