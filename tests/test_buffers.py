"""Every leaf of every state owns its buffer, so that a step may be given them."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import absgd_jax
from tests import problems

X, LABELS, _ = problems.as_dtype(problems.batches(4), jnp.float32)

RADIUS = absgd_jax.kl_radius(0.4)
MAKE = {
    "attentional_aggregate": absgd_jax.attentional_aggregate,
    "scale_by_attention": absgd_jax.scale_by_attention,
    "absgd": functools.partial(absgd_jax.absgd, 0.1),
    "abadam": functools.partial(absgd_jax.abadam, 0.01),
    "abadam without bias correction": functools.partial(
        absgd_jax.abadam, 0.01, bias_correction=False
    ),
}


def step(tx, by_value, params, state, x, labels):
    if by_value:
        value, grads = absgd_jax.tilted_value_and_grad(
            problems.per_example_losses, state
        )(params, x, labels)
        updates, state = tx.update(grads, state, params, value=value)
    else:
        losses, pullback = jax.vjp(
            lambda p: problems.per_example_losses(p, x, labels), params
        )
        updates, state = tx.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state


def train(tx, by_value, donate):
    params = problems.as_dtype(problems.initial_params(), jnp.float32)
    state = tx.init(params)
    # As `init` left them, not as a compiled step would return them.
    arguments = {"donate_argnums": (0, 1), "keep_unused": True} if donate else {}
    compiled = jax.jit(functools.partial(step, tx, by_value), **arguments)
    for x, labels in zip(X, LABELS, strict=True):
        params, state = compiled(params, state, x, labels)
    return jax.device_get((params, state))


BOUNDS = {}, {"max_weight": 2.0}, {"max_weight": 2.0, "lam": RADIUS}


@pytest.mark.parametrize(
    ("name", "injected", "bound"),
    [
        (name, injected, BOUNDS[(i + injected) % 3])
        for i, name in enumerate(MAKE)
        for injected in (False, True)
    ],
)
def test_a_donated_state_is_never_used_again(name, injected, bound):
    """And the caller's own λ, γ and bound can be read afterwards."""
    given = {"lam": jnp.float32(0.7), "gamma": jnp.float32(0.3)}
    given |= {k: v if v is RADIUS else jnp.float32(v) for k, v in bound.items()}
    make = MAKE[name]
    by_value = name == "scale_by_attention"
    if injected and isinstance(make, functools.partial):
        fixed = {"bias_correction"} & set(make.keywords)
        make = optax.inject_hyperparams(make.func, static_args=fixed)
        rate, *_ = MAKE[name].args
        tx = make(learning_rate=rate, **MAKE[name].keywords, **given)
    elif injected:
        tx = optax.inject_hyperparams(make)(**given)
    else:
        tx = make(**given)
    expected = train(tx, by_value, donate=False)
    got = train(tx, by_value, donate=True)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), got, expected))
    if not injected:  # Optax keeps what is injected in its state
        assert not any(v.is_deleted() for v in given.values() if v is not RADIUS)


def test_the_state_of_the_weights_may_be_donated():
    lam = jnp.float32(0.7)
    attention = absgd_jax.attention(lam, max_weight=jnp.float32(2.0))
    weigh = jax.jit(attention.weigh, donate_argnums=1, keep_unused=True)
    state = attention.init()
    for x, labels in zip(X, LABELS, strict=True):
        params = problems.as_dtype(problems.initial_params(), jnp.float32)
        losses = problems.per_example_losses(params, x, labels)
        _, state = weigh(losses, state)
    assert float(lam) == pytest.approx(0.7)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_uncompiled_updates_share_no_buffer_with_the_caller():
    lam = jnp.float32(0.7)
    tx = absgd_jax.scale_by_attention(lam)
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.ones(2), state, jnp.zeros(2), value=1.0)
    jax.jit(lambda state: state.lam + 1, donate_argnums=0, keep_unused=True)(state)
    assert not lam.is_deleted()
