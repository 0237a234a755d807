"""What is set for an update: schedules, the switch, and the authors' variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import absgd_jax
from experiments import configs, methods, presets
from experiments.methods import attention
from experiments.train import steps
from tests import oracle

CIFAR = configs.Run(
    data=configs.Data(source="cifar10"),
    model=configs.Model(name="resnet32"),
    method=configs.Method(lam=1.0, gamma=0.3, start_at=160 / 200, init_s=0.0),
    optimizer=configs.Optimizer(
        warmup=5 / 200, drop_at=(160 / 200, 180 / 200), drop_factor=100.0
    ),
    epochs=200,
)


def test_the_learning_rate_is_that_of_the_published_code():
    """Up over five epochs, then divided by 100 after 160 and again after 180."""
    rates = [
        float(methods.step_hyperparams(CIFAR, 97, epoch * 97 + place).learning_rate)
        for epoch in range(200)
        for place in (0, 96)
    ]
    expected = [0.02, 0.04, 0.06, 0.08] + 156 * [0.1] + 20 * [1e-3] + 20 * [1e-5]
    np.testing.assert_allclose(rates, np.repeat(expected, 2), rtol=1e-6)


def test_a_cosine_falls_to_zero():
    cosine = {"optimizer.decay": "cosine", "optimizer.drop_at": ()}
    run = configs.replace(CIFAR, cosine | {"optimizer.warmup": 0.0, "epochs": 3})
    rates = [
        float(methods.step_hyperparams(run, 4, step).learning_rate)
        for step in range(12)
    ]
    reference = optax.cosine_decay_schedule(0.1, 12)
    np.testing.assert_allclose(rates, [reference(s) for s in range(12)], rtol=1e-5)


@functools.cache
def gradient_of(run):
    """The rule at w = 0 for losses `L_i + x_i w`, whose gradients are x."""

    @jax.jit
    def gradient(hyperparams, state, losses, slopes, present):
        weighting_input = methods.WeightingInput(
            params=jnp.float32(0.0),
            per_example_losses=lambda w, L, x, _: (L + w * x, {}),
            examples=(losses, slopes),
            present=present,
            labels=jnp.zeros(losses.size, int),
            index=jnp.arange(losses.size),
            class_weights=jnp.ones(1),
            hyperparams=hyperparams,
        )
        return methods.rule(run).gradient(weighting_input, state)

    return gradient


def weighted(run, hyperparams, state, losses, slopes=None, present=None):
    """What the rule finds; slopes of one, and all examples, unless others are given."""
    slopes = np.ones(len(losses), np.float32) if slopes is None else slopes
    present = np.ones(len(losses), bool) if present is None else present
    found = gradient_of(run)(hyperparams, state, np.float32(losses), slopes, present)
    return jax.device_get(found)


def start(run):
    return methods.rule(run).init(jnp.float32(0.0), 1, 1)


@pytest.mark.parametrize("lam", [0.7, -1.5])
@pytest.mark.parametrize("init_s", [0.0, 2.0, None])
def test_algorithm_1_begins_at_the_switch(lam, init_s):
    """Against the algorithm as printed, in float64, from s_0 at the switch on."""
    own = {"method.lam": lam, "method.init_s": init_s, "method.start_at": 0.5}
    run = configs.replace(CIFAR, own | {"epochs": 4})
    rng, state = np.random.default_rng(0), start(run)
    attention = oracle.Attention(lam, 0.3, init_s)
    for step in range(8):
        losses = np.float32(rng.exponential(size=6))
        found = weighted(run, methods.step_hyperparams(run, 2, step), state, losses)
        state = found.state
        if step < 4:
            np.testing.assert_array_equal(found.weights, 1.0)
        elif init_s is not None:
            expected = attention.weights(losses)
            np.testing.assert_allclose(found.weights, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alpha": 0.5, "uniform": True},
        {"max_weight": 1.5},
        {"route": "value", "alpha": 0.5, "max_weight": 1.5},
        {"route": "value", "microbatch_size": 3},
        {"route": "dense", "max_weight": 1.5},
    ],
)
def test_the_direction_is_the_mean_of_weighted_gradients(changes):
    """Over the examples that are there; and the bound is one on p, before α."""
    changes = {"init_s": None, "start_at": 0.0} | changes
    changes = {f"method.{k}": v for k, v in changes.items()} | {"model.norm": "group"}
    run = configs.replace(CIFAR, changes)
    rng, state = np.random.default_rng(1), start(run)
    present = np.arange(8) < 6
    for step in range(3):
        losses = rng.exponential(size=8)
        losses[6:] = 1e3
        slopes = np.float32(rng.normal(size=8))
        hyperparams = methods.step_hyperparams(run, 1, step)
        found = weighted(run, hyperparams, state, losses, slopes, present)
        state = found.state
        p = found.weights[:6]
        np.testing.assert_allclose(
            found.gradient, np.mean(p * slopes[:6]), rtol=1e-5, atol=1e-6
        )
        e = (p - hyperparams.uniform) / hyperparams.scale
        if run.method.max_weight is None:
            expected = np.exp(losses[:6] - state.tilted_loss)
            np.testing.assert_allclose(e, expected, rtol=1e-5)
        else:
            assert e.max() == pytest.approx(1.5, rel=1e-6)


def test_a_finite_first_lam_is_attention_from_the_first_step():
    run = configs.replace(CIFAR, {"method.first_lam": 100.0})
    first, later = (
        methods.step_hyperparams(run, 97, 0),
        methods.step_hyperparams(run, 97, 160 * 97),
    )
    assert (first.lam, first.init_s, bool(first.restart)) == (100.0, 0.0, True)
    assert (later.lam, bool(later.restart)) == (1.0, False)


def test_a_switch_that_has_moved_to_before_a_resume_begins_with_init_s_all_the_same():
    run = configs.replace(CIFAR, {"method.init_s": 0.0})
    plain, late = (
        methods.step_hyperparams(run, 97, epoch * 97) for epoch in (100, 170)
    )
    assert not late.restart
    state = (
        absgd_jax.attention(jnp.inf)
        .init()
        ._replace(count=jnp.int32(9), log_discount=jnp.float32(-3.0))
    )
    assert attention.begin(run, plain, state).log_discount == -3.0
    begun = attention.begin(run, late, state)
    assert begun.log_discount == 0.0
    after = begun._replace(log_discount=jnp.float32(-1.0))
    assert attention.begin(run, late, after).log_discount == -1.0


def test_from_one_finite_lam_to_another_the_objective_is_carried_on():
    """F stays, in units of loss, so that s = exp(F/λ) is of the new λ at once."""
    run = configs.replace(CIFAR, {"method.first_lam": 100.0, "method.init_s": None})
    before, after = (methods.step_hyperparams(run, 1, step) for step in (0, 160))
    losses, state = jnp.float32([0.5, 1.0, 3.0]), start(run)
    for hyperparams in (before, after):
        carried = float(state.tilted_loss)
        found = weighted(run, hyperparams, state, losses)
        state = found.state
    tilted = np.log(np.mean(np.exp(np.asarray(losses, float))))  # at the new λ of 1
    newest = 0.3 / (1 - 0.7**2)  # of two batches, without s_0
    s = (1 - newest) * np.exp(carried) + newest * np.exp(tilted)
    assert carried == pytest.approx(1.5, rel=0.01)  # at λ = 100, about the mean
    assert float(state.tilted_loss) == pytest.approx(np.log(s), rel=1e-5)
    np.testing.assert_allclose(found.weights, np.exp(losses) / s, rtol=1e-5)


@pytest.mark.parametrize("rho", [0.02, 1.0])
def test_a_radius_is_the_one_that_is_given(rho):
    radius = {"rho": rho, "lam": np.inf, "init_s": None, "start_at": 0.0}
    run = configs.replace(CIFAR, {f"method.{k}": v for k, v in radius.items()})
    rng, state = np.random.default_rng(2), start(run)
    reference = absgd_jax.attention(absgd_jax.kl_radius(rho), run.method.gamma)
    expected = reference.init()
    for step in range(6):
        losses = np.float32(rng.exponential(size=16))
        hyperparams = methods.step_hyperparams(run, 1, step)
        found = weighted(run, hyperparams, state, losses)
        weights, expected = reference.weigh(losses, expected)
        state = found.state
        np.testing.assert_allclose(found.weights, weights, rtol=1e-5)
    np.testing.assert_allclose(state.lam, expected.lam, rtol=1e-5)


def test_the_authors_variants():
    """α divides the weights and the uniform term adds one, both after the switch."""
    variant = configs.replace(CIFAR, {"method.alpha": 0.5, "method.uniform": True})
    for step, expected in {0: (1.0, 0.0), 160 * 97: (2.0, 1.0)}.items():
        hyperparams = methods.step_hyperparams(variant, 97, step)
        assert (hyperparams.scale, hyperparams.uniform) == expected
    radius = {"method.rho": 0.4, "method.lam": np.inf, "method.init_s": None}
    variant = configs.replace(variant, radius)
    for step, expected in {0: (1.0, 0.0), 160 * 97: (2.0, 1.0)}.items():
        hyperparams = methods.step_hyperparams(variant, 97, step)
        assert (hyperparams.scale, hyperparams.uniform) == expected


def descended(run, gradient, params):
    """The first update by a gradient, in units of the learning rate."""
    hyperparams = methods.step_hyperparams(run, 1, 0)
    descent = methods.descent(run, hyperparams)
    update, _ = jax.jit(descent.update)(gradient, descent.init(params), params)
    return jax.tree.map(lambda leaf: leaf / hyperparams.learning_rate, update)


def test_the_sce_networks_hidden_layer_and_its_norm_decay_by_their_own():
    """With 0.01, as the published code's group of the first dense layer."""
    run = presets.smoke(presets.get("cifar10_sym20_sce").run)
    params = nnx.state(steps.network(run), nnx.Param)
    filled = lambda x: jax.tree.map(lambda p: np.full(p.shape, x, np.float32), params)
    updates = nnx.to_flat_state(descended(run, filled(0.0), filled(1.0)))
    for path, update in updates:
        decay = 0.01 if path[0] in ("hidden", "hidden_norm") else 5e-3
        np.testing.assert_allclose(update[...], -decay, rtol=1e-6, err_msg=str(path))
    parts = {path[0] for path, _ in updates}
    assert parts == {"blocks", "hidden", "hidden_norm", "head"}


@pytest.mark.parametrize(
    ("changes", "gradient", "expected"),
    [
        ({"optimizer.clip_norm": 5.0}, [30.0, 40.0], [3.1, 4.1]),
        ({"method.name": "abadam"}, [3.0, -4.0], [1.1, -0.9]),
    ],
    ids=["clipping comes before it", "outside Adam's means"],
)
def test_weight_decay_is_neither_clipped_nor_scaled_by_adam(
    changes, gradient, expected
):
    decay = {"optimizer.weight_decay": 0.1, "optimizer.momentum": 0.0}
    run = configs.replace(CIFAR, decay | changes)
    updates = descended(run, jnp.array(gradient), jnp.ones(2))
    np.testing.assert_allclose(updates, -np.array(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"optimizer.nesterov": True}, optax.sgd(0.1, 0.9, nesterov=True)),
        (
            {
                "method.name": "adam",
                "optimizer.b1": 0.5,
                "optimizer.b2": 0.9,
                "optimizer.eps": 0.1,
            },
            optax.adam(0.1, 0.5, 0.9, 0.1),
        ),
    ],
    ids=["nesterov", "adam"],
)
def test_what_the_optimizer_is_set_to_is_optaxs(changes, reference):
    run = configs.replace(CIFAR, {"optimizer.warmup": 0.0} | changes)
    descent = methods.descent(run, methods.step_hyperparams(run, 1, 0))
    params = jnp.ones(2)
    ours, theirs = descent.init(params), reference.init(params)
    for step in range(3):
        gradient = jnp.array([3.0, -4.0]) + step
        found, ours = descent.update(gradient, ours, params)
        expected, theirs = reference.update(gradient, theirs, params)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
