"""ABSGD is Eq. (2), ABAdam Eq. (9); AB-AdaGrad and AB-RMSProp are one-line chains."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import absgd_jax
from tests import oracle, problems

LAM, GAMMA, ETA = 0.6, 0.3, 0.02
STEPS = 60
data = problems.batches(STEPS)
w_0 = problems.initial_params()["w"]


def trained(optimizer):
    """Parameters after each step, in float64."""
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(w_0)}
        state = optimizer.init(params)
        step = jax.jit(
            lambda p, s, x, y, v: problems.route_step(
                "pullback", optimizer, p, s, x, y, sample_weights=v
            )[:2]
        )
        history = []
        for batch in zip(*data, strict=True):
            params, state = step(params, state, *batch)
            history.append(np.asarray(params["w"]))
        return np.stack(history)


def reference(step, *slots):
    """Runs `step(t, G, w, *slots) -> w, *slots` along the oracle's directions."""
    attention, w, history = oracle.Attention(LAM, GAMMA), w_0, []
    for t, (x, labels, v) in enumerate(zip(*data, strict=True), 1):
        losses, gradients = oracle.softmax_regression(w, x, labels)
        w, *slots = step(t, attention.direction(losses, gradients, v), w, *slots)
        history.append(w)
    return np.stack(history)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_absgd_is_equation_2(beta):
    """w_{t+1} = w_t − η (G_t + α w_t) + β (w_t − w_{t−1}): decay is not weighted."""
    alpha = 0.1

    def step(_, G, w, previous):
        return w - ETA * (G + alpha * w) + beta * (w - previous), w

    got = trained(absgd_jax.absgd(ETA, LAM, GAMMA, momentum=beta, weight_decay=alpha))
    np.testing.assert_allclose(got, reference(step, w_0), atol=1e-12)


def test_absgd_without_momentum_and_with_nesterov():
    plain = trained(absgd_jax.absgd(ETA, LAM, GAMMA, momentum=None))
    np.testing.assert_array_equal(
        plain, trained(absgd_jax.absgd(ETA, LAM, GAMMA, momentum=0.0))
    )

    def nesterov(_, G, w, velocity):
        velocity = 0.9 * velocity + G
        return w - ETA * (G + 0.9 * velocity), velocity

    got = trained(absgd_jax.absgd(ETA, LAM, GAMMA, nesterov=True))
    np.testing.assert_allclose(got, reference(nesterov, 0 * w_0), atol=1e-12)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_abadam_is_equation_9(bias_correction):
    """v / (√u + G_0) + α w with decoupled decay; as printed without bias correction."""
    b1, b2, eps, alpha = 0.8, 0.95, 1e-3, 0.1

    def step(t, G, w, v, u):
        v, u = b1 * v + (1 - b1) * G, b2 * u + (1 - b2) * G**2
        v_hat, u_hat = (v / (1 - b1**t), u / (1 - b2**t)) if bias_correction else (v, u)
        return w - ETA * (v_hat / (np.sqrt(u_hat) + eps) + alpha * w), v, u

    optimizer = absgd_jax.abadam(
        ETA, LAM, GAMMA, b1=b1, b2=b2, eps=eps, weight_decay=alpha,
        bias_correction=bias_correction,
    )  # fmt: skip
    expected = reference(step, 0 * w_0, 0 * w_0)
    np.testing.assert_allclose(trained(optimizer), expected, atol=1e-12)


def adagrad(_, G, w, total):
    total = total + G**2
    return w - ETA * G / np.sqrt(total + 1e-7), total


def rmsprop(_, G, w, u):
    u = 0.9 * u + 0.1 * G**2
    return w - ETA * G / np.sqrt(u + 1e-8), u


@pytest.mark.parametrize(
    ("optimizer", "step", "first"),
    [(optax.adagrad(ETA), adagrad, 0.1), (optax.rmsprop(ETA, decay=0.9), rmsprop, 0.0)],
    ids=["adagrad", "rmsprop"],
)
def test_other_optimizers_are_one_line_chains(optimizer, step, first):
    chain = optax.chain(absgd_jax.attentional_aggregate(LAM, GAMMA), optimizer)
    expected = reference(step, np.full_like(w_0, first))
    np.testing.assert_allclose(trained(chain), expected, atol=1e-12)


def test_learning_rate_and_decay_may_follow_schedules():
    schedule = optax.piecewise_constant_schedule(ETA, {30: 0.1})
    got = trained(absgd_jax.absgd(schedule, LAM, GAMMA, weight_decay=1e-2))
    constant = trained(absgd_jax.absgd(ETA, LAM, GAMMA, weight_decay=1e-2))
    np.testing.assert_array_equal(got[:30], constant[:30])
    assert (
        np.abs(np.diff(got[45:], axis=0)).max()
        < 0.2 * np.abs(np.diff(constant[45:], axis=0)).max()
    )
    decayed = trained(absgd_jax.absgd(ETA, LAM, GAMMA, weight_decay=lambda _: 1e-2))
    np.testing.assert_allclose(decayed, constant, rtol=1e-12)


@pytest.mark.parametrize("make", [absgd_jax.absgd, absgd_jax.abadam])
def test_without_decay_no_parameters_are_needed(make):
    """As in Optax's own aliases."""
    tx = make(0.1, 1.0)
    gradients = {"w": jnp.ones((4, 2))}
    state = tx.init({"w": jnp.ones(2)})
    updates, _ = jax.jit(tx.update)(gradients, state, losses=jnp.ones(4))
    chex.assert_shape(updates["w"], (2,))


def test_two_stage_switches_at_its_step():
    schedule = absgd_jax.two_stage(-2.0, 3, first=10.0)
    lams = [float(schedule(step)) for step in range(5)]
    assert lams == [10.0, 10.0, 10.0, -2.0, -2.0]
    assert float(jax.jit(schedule)(jnp.int32(3))) == -2.0
    with jax.enable_x64(True):
        exact = [absgd_jax.two_stage(0.1, 1)(1), absgd_jax.anneal(0.1, 0, 1)(1)]
    np.testing.assert_allclose(exact, 0.1, rtol=1e-15)
    with pytest.raises(ValueError, match="switch_step must not be negative, got -1"):
        absgd_jax.two_stage(1.0, -1)
    for lams in ((0.0, 1.0), (1.0, np.nan)):
        with pytest.raises(ValueError, match=r"(lam|first) must be nonzero"):
            absgd_jax.two_stage(lams[0], 1, first=lams[1])


# What the authors' package for PyTorch, version 0.0.1, trains in float64: a network
# with one hidden layer on 48 examples of three unequal classes, in batches of 16, two
# epochs with plain and three with weighted losses; see `docs/from_pytorch.md`.
AUTHORS = np.load(pathlib.Path(__file__).parent / "authors_package.npz")


@pytest.mark.parametrize(
    ("name", "lam", "alpha"),
    [
        ("absgd", 0.5, 1.0),
        ("absgd", -1.0, 0.5),
        ("abadam", 0.5, 1.0),
        ("abadam", -1.0, 1.0),
    ],
)
def test_the_authors_package_trains_to_the_same_parameters(name, lam, alpha):
    """Their `u` is zero where the weights begin; `abalpha` divides the weights."""
    descent = {"absgd": optax.sgd(0.05, momentum=0.9), "abadam": optax.adam(0.05)}

    def optimizer(lam, init_s=None):
        return optax.chain(
            absgd_jax.attentional_aggregate(lam, gamma=0.9, init_s=init_s),
            optax.scale(1.0 if init_s is None else 1.0 / alpha),
            optax.add_decayed_weights(1e-2),
            descent[name],
        )

    def losses_of(params, x, labels):
        hidden = jnp.tanh(x @ params[0].T + params[1])
        logits = hidden @ params[2].T + params[3]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    @functools.partial(jax.jit, static_argnums=0)
    def step(weighted, params, state, x, labels):
        tx = optimizer(lam, 0.0) if weighted else optimizer(jnp.inf)
        losses, pullback = jax.vjp(lambda params: losses_of(params, x, labels), params)
        updates, state = tx.update(pullback, state, params, losses=losses)
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(True):
        params = [jnp.asarray(AUTHORS[f"package_start_{i}"]) for i in range(4)]
        state = optimizer(jnp.inf).init(params)
        for epoch, order in enumerate(AUTHORS["package_order"]):
            if epoch == 2:
                state = (optimizer(lam, 0.0).init(params)[0], *state[1:])
            for pick in order.reshape(-1, 16):
                x, labels = AUTHORS["package_x"][pick], AUTHORS["package_labels"][pick]
                params, state = step(epoch >= 2, params, state, x, labels)
    for i, found in enumerate(params):
        start, end = (
            AUTHORS[f"package_start_{i}"],
            AUTHORS[f"package_{name}_{lam:g}_{i}"],
        )
        assert np.linalg.norm(end - start) > 0.1
        np.testing.assert_allclose(found, end, rtol=1e-12, atol=1e-12)


def test_complex_parameters_have_the_squared_modulus_for_their_second_moment():
    """As Optax's Adam has it; and a state of 64 bits where they have two of them."""
    tx = absgd_jax.abadam(1.0, jnp.inf, b1=0.0, b2=0.0, eps=0.0, bias_correction=False)
    w = jnp.zeros(1, jnp.complex64)
    dense = jnp.array([[3.0 + 4.0j], [3.0 + 4.0j]])
    updates, _ = tx.update(dense, tx.init(w), w, losses=jnp.ones(2))
    np.testing.assert_allclose(updates, [-0.6 - 0.8j], rtol=1e-6)
    with jax.enable_x64(True):
        state = absgd_jax.attention().init(jnp.zeros(1, jnp.complex128))
        assert state.tilted_loss.dtype == jnp.float64
