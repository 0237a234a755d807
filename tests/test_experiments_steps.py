"""The training step: exact under padding, SGD at λ = ∞, ABSGD otherwise."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import absgd_jax
from experiments import configs, methods, models, pipeline, sources, steps, train

MODEL = configs.Model(widths=(8,))
OPTIMIZER = configs.Optimizer(learning_rate=0.1, drop_at=0.5)
ATTENTION = configs.Attention(gamma=0.5, start_at=0.25)
TOTAL_STEPS = 8
program = functools.partial(steps.program, MODEL, OPTIMIZER, ATTENTION, TOTAL_STEPS)


@pytest.fixture(scope="module")
def examples():
    return sources.digits().take(np.arange(64))


def _train(examples, lam, batch_size, updates=TOTAL_STEPS, seed=0):
    """Trains on batches of the examples in order, over and over."""
    state, seen = program().init(seed, lam), []
    batches = list(pipeline.batches(examples, batch_size))
    for step in range(updates):
        state, one = program().train(state, batches[step % len(batches)], lam)
        seen.append(one)
    return state, seen


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_is_a_convolution(stride):
    ours = models.Convolution(3, 5, stride, rngs=nnx.Rngs(0))
    theirs = nnx.Conv(
        3, 5, (3, 3), strides=stride, padding=1, use_bias=False, rngs=nnx.Rngs(0)
    )
    theirs.kernel[...] = ours.product.kernel[...].reshape(3, 3, 3, 5)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [math.inf, 0.5, -2.0])
def test_padding_changes_nothing(examples, lam):
    """Not the parameters, nor BatchNorm's statistics, nor the attention."""
    few = examples.take(np.arange(10))
    exact, exact_seen = _train(few, lam, batch_size=10)
    padded, padded_seen = _train(few, lam, batch_size=16)
    chex.assert_trees_all_close(exact, padded, rtol=2e-4, atol=2e-5)
    for a, b in zip(exact_seen, padded_seen, strict=True):
        np.testing.assert_allclose(b.losses[:10], a.losses, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(b.weights[:10], a.weights, rtol=1e-3, atol=1e-5)
        assert not np.any(b.losses[10:])
        assert not np.any(b.weights[10:])


def test_what_padding_holds_changes_nothing(examples):
    """Not even a thousand times an image's brightness."""
    (batch,) = pipeline.batches(examples.take(np.arange(10)), 16)
    images = batch.images.copy()
    images[10:] = 1e3
    garbage = batch._replace(images=images)
    init, step = program().init, program().train
    clean, _ = step(init(0, 0.5), batch, 0.5)
    dirty, _ = step(init(0, 0.5), garbage, 0.5)
    chex.assert_trees_all_close(clean, dirty, rtol=1e-6)


def test_evaluation_leaves_padding_out(examples):
    state = program().init(0, math.inf)
    evaluate = program().evaluate
    whole = sum(np.asarray(evaluate(state, b)) for b in pipeline.batches(examples, 64))
    parts = sum(np.asarray(evaluate(state, b)) for b in pipeline.batches(examples, 48))
    assert whole.sum() == 64
    np.testing.assert_array_equal(whole, parts)


def test_sgd_is_optax_sgd(examples):
    """λ = ∞ is `optax.sgd` on the mean loss, written out here without the library."""
    state, _ = _train(examples, math.inf, batch_size=16)

    tx = optax.chain(
        optax.add_decayed_weights(OPTIMIZER.weight_decay),
        optax.sgd(
            lambda step: jnp.where(step < 4, 0.1, 0.1 / OPTIMIZER.drop_factor),
            momentum=OPTIMIZER.momentum,
        ),
    )
    network = models.ConvNet(MODEL, rngs=nnx.Rngs(jax.random.key(0)))
    graph, params, statistics = nnx.split(network, nnx.Param, ...)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, statistics, opt_state, batch):
        def mean_loss(params):
            model = nnx.merge(graph, params, statistics, copy=True)
            model.train()
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(batch.images, batch.present), batch.labels
            )
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        grads, statistics_ = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), statistics_, opt_state

    batches = list(pipeline.batches(examples, 16))
    for i in range(TOTAL_STEPS):
        params, statistics, opt_state = step(
            params, statistics, opt_state, batches[i % len(batches)]
        )
    chex.assert_trees_all_close(
        jax.tree.leaves(state.params), jax.tree.leaves(params), rtol=1e-4, atol=1e-6
    )
    chex.assert_trees_all_close(
        jax.tree.leaves(state.statistics),
        jax.tree.leaves(statistics),
        rtol=1e-4,
        atol=1e-6,
    )


def test_attention_starts_at_the_switch(examples):
    """Before it the two methods are the same; after it the weights are Eq. (5)'s."""
    switch = int(ATTENTION.start_at * TOTAL_STEPS)
    before_sgd, _ = _train(examples, math.inf, 16, updates=switch)
    before, seen = _train(examples, 0.5, 16, updates=switch)
    chex.assert_trees_all_equal(before_sgd.params, before.params)
    for one in seen:
        np.testing.assert_array_equal(one.weights, 1.0)

    _, seen = _train(examples, 0.5, 16, updates=switch + 1)
    losses = np.asarray(seen[-1].losses, np.float64)
    # The running normaliser, from the mean losses before the switch.
    means = [np.mean(one.losses) for one in seen[:-1]]
    assert switch == 2
    old = means[0] + (0.5 / 0.75) * (means[1] - means[0])  # γ' = γ / (1 − (1 − γ)²)
    share = 0.5 / (1 - 0.5**3)
    s = (1 - share) * np.exp(old / 0.5) + share * np.mean(np.exp(losses / 0.5))
    np.testing.assert_allclose(seen[-1].weights, np.exp(losses / 0.5) / s, rtol=1e-4)


def test_learning_rate_drops_once():
    schedule = methods.learning_rate(OPTIMIZER, TOTAL_STEPS)
    rates = [float(schedule(step)) for step in range(TOTAL_STEPS)]
    np.testing.assert_allclose(rates, 4 * [0.1] + 4 * [0.1 / 50.0], rtol=1e-6)


def test_nothing_recompiles_for_another_seed_or_lam(examples):
    compiled = program()
    _train(examples, math.inf, 16)
    before = compiled.train._cache_size()
    for seed, lam in ((1, 0.5), (2, -1.0), (3, 2.0)):
        _train(examples, lam, 16, seed=seed)
    assert compiled.train._cache_size() == before


def _events(config):
    events = []
    train.run(config, "study", lambda **event: events.append(event))
    return events


@pytest.fixture(scope="module")
def short_run():
    return dataclasses.replace(
        configs.LABEL_NOISE.run,
        model=MODEL,
        attention=configs.Attention(start_at=0.4),  # in the second epoch
        epochs=3,
        batch_size=128,
        lam=-1.0,
    )


def test_the_same_seed_gives_the_same_numbers(short_run):
    first, again = _events(short_run), _events(short_run)
    chex.assert_trees_all_equal(first, again)
    other = _events(dataclasses.replace(short_run, seed=1))
    assert other[0]["loss"] != first[0]["loss"]


def test_events_of_a_run(short_run):
    events = _events(short_run)
    assert [event["epoch"] for event in events] == [1, 2, 3]
    assert ["test" in event for event in events] == [False, False, True]
    assert events[-1]["loss"] < events[0]["loss"]
    assert events[0]["weight_clean"] == pytest.approx(1.0)  # before the switch
    assert events[-1]["weight_clean"] != pytest.approx(1.0, abs=1e-4)
    assert events[-1]["class_counts"].sum() == 1097


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    short_run, monkeypatch
):
    real = absgd_jax.losses.softmax_cross_entropy
    monkeypatch.setattr(
        absgd_jax.losses,
        "softmax_cross_entropy",
        # Overflows in the second step, since the first one moved the parameters.
        lambda logits, labels: real(logits, labels) * 1e30,
    )
    diverging = dataclasses.replace(
        short_run, optimizer=configs.Optimizer(learning_rate=1e30), lam=math.inf
    )
    steps.program.cache_clear()
    with pytest.raises(FloatingPointError, match=r"not finite at step 2 .*seed 0"):
        _events(diverging)
    steps.program.cache_clear()
