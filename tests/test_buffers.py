"""Every leaf of every state owns its buffer, so that a step may be given them."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import absgd_jax
from tests import problems

params, x, labels, _ = problems.start()
RADIUS = absgd_jax.kl_radius(0.4)
MAKE = {
    "attentional_aggregate": absgd_jax.attentional_aggregate,
    "scale_by_attention": absgd_jax.scale_by_attention,
    "absgd": functools.partial(absgd_jax.absgd, 0.1),
    "abadam": functools.partial(absgd_jax.abadam, 0.01),
    "uncorrected": functools.partial(absgd_jax.abadam, 0.01, bias_correction=False),
}


def train(step, state, donate):
    """Parameters and state after some steps that donate both, or copies of both."""
    own = lambda tree: tree if donate else jax.tree.map(jnp.copy, tree)
    carry = jax.tree.map(jnp.copy, params), state
    for _ in range(3):
        carry = step(*own(carry), x, labels)
    return jax.device_get(carry)


BOUND = {"max_weight": 2.0}
BOUNDED_RADIUS = BOUND | {"lam": RADIUS}


@pytest.mark.parametrize(
    ("name", "injected", "bound"),
    [
        ("attentional_aggregate", False, {}),
        ("absgd", False, BOUNDED_RADIUS),
        ("abadam", False, BOUND),
        ("absgd", True, {}),
        ("scale_by_attention", True, BOUND),
        ("uncorrected", True, BOUNDED_RADIUS),
    ],
)
def test_a_donated_state_is_never_used_again(name, injected, bound):
    """And the caller's own λ, γ and bound can be read afterwards."""
    given = {"lam": jnp.float32(0.7), "gamma": jnp.float32(0.3)}
    given |= {k: v if v is RADIUS else jnp.float32(v) for k, v in bound.items()}
    make = MAKE[name]
    route = "tilted" if name == "scale_by_attention" else "pullback"
    if injected and isinstance(make, functools.partial):
        fixed = {"bias_correction"} & set(make.keywords)
        make = optax.inject_hyperparams(make.func, static_args=fixed)
        rate, *_ = MAKE[name].args
        tx = make(learning_rate=rate, **MAKE[name].keywords, **given)
    elif injected:
        tx = optax.inject_hyperparams(make)(**given)
    else:
        tx = make(**given)
    step = jax.jit(problems.stepper(route, tx), donate_argnums=(0, 1), keep_unused=True)
    # The state is as `init` left it, not as a compiled step would return it.
    expected, got = (train(step, tx.init(params), donate) for donate in (False, True))
    chex.assert_trees_all_equal(got, expected)
    if not injected:  # Optax keeps what is injected in its state
        assert not any(v.is_deleted() for v in given.values() if v is not RADIUS)


def test_the_state_of_the_weights_may_be_donated():
    lam = jnp.float32(0.7)
    attention = absgd_jax.attention(lam, max_weight=jnp.float32(2.0))
    weigh = jax.jit(attention.weigh, donate_argnums=1, keep_unused=True)
    state = attention.init()
    losses = problems.per_example_losses(params, x, labels)
    for _ in range(3):
        _, state = weigh(losses, state)
    assert float(lam) == pytest.approx(0.7)


def test_a_value_shares_no_buffer_with_its_state():
    """Both are arguments of `update`, and the state is donated."""
    tx = absgd_jax.absgd(0.1)
    state = tx.init(params)
    of_losses = absgd_jax.tilted_value_and_grad(problems.per_example_losses, state)
    value, grads = of_losses(params, x, labels)
    update = lambda grads, state, value: tx.update(grads, state, params, value=value)
    jax.jit(update, donate_argnums=1, keep_unused=True)(grads, state, value)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_uncompiled_updates_share_no_buffer_with_the_caller():
    lam = jnp.float32(0.7)
    tx = absgd_jax.scale_by_attention(lam)
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.ones(2), state, jnp.zeros(2), value=1.0)
    jax.jit(lambda state: state.lam + 1, donate_argnums=0, keep_unused=True)(state)
    assert not lam.is_deleted()
