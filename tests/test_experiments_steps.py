"""The training step: one answer by every route, exact under padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configs, methods
from experiments.train import sharding, steps
from experiments.train.losses import class_weights, per_example_losses
from tests import training_problem as problem

LAYOUT = sharding.layout(1)
RUN = configs.replace(problem.RUN, problem.CONVNET)
SGD = {"method.name": "sgd", "optimizer.weight_decay": 0.0, "optimizer.momentum": 0.0}
WEIGHTED_MEAN = configs.replace(RUN, SGD | {"loss.class_weights_norm": "weights"})


@pytest.fixture(scope="module")
def by_pullback():
    return problem.train(RUN)


def test_the_value_route_trains_to_the_same_numbers(by_pullback):
    by_value = configs.replace(RUN, {"method.route": "value"})
    problem.same(problem.train(by_value), by_pullback)


def test_the_dense_route_trains_to_the_same_numbers_and_keeps_the_same_bound():
    bounded = {"method.init_s": None, "method.max_weight": 1.5}
    dense = {"method.route": "dense", "method.microbatch_size": 8}
    found, expected = (
        problem.train(configs.replace(RUN, bounded | changes))
        for changes in (dense, {})
    )
    problem.same(found, expected)
    largest = [float(one.largest) for one in found[1]]
    np.testing.assert_allclose(largest, [1.0, 1.0, 1.5, 1.5], rtol=1e-6)


def test_microbatches_follow_a_radius_from_the_switch_on_as_the_whole_batch_does():
    radius = {"method.rho": 0.1, "method.lam": -math.inf, "method.init_s": None}
    run = configs.replace(RUN, radius)  # on from the third update
    state, seen = problem.train(run, updates=5)
    assert [float(one.weight) for one in seen[:2]] == [problem.SIZE] * 2
    assert [float(one.lam) for one in seen[:2]] == [math.inf] * 2
    assert all(-math.inf < float(one.lam) < 0.0 for one in seen[2:])
    assert len({float(one.lam) for one in seen[2:]}) == 3
    assert min(float(one.effective) for one in seen[2:]) < 0.99
    changes = {"method.route": "value", "method.microbatch_size": 5}
    by_value = problem.train(configs.replace(run, changes), updates=5)
    problem.same(by_value, (state, seen))


def test_an_evaluation_of_ldam_scales_its_cosines_as_the_loss_does():
    """With next to no margin LDAM is the cross-entropy of what is evaluated."""
    ldam = {"model.head": "cosine", "loss.name": "ldam", "loss.max_margin": 1e-9}
    run = configs.replace(RUN, ldam | {"loss.scale": 7.0})
    batch, state = problem.batch(0), problem.train(run, updates=0)[0]
    logits = steps.program(run, LAYOUT).logits(state, batch)
    cosines = steps.program(
        configs.replace(run, {"loss": configs.Loss()}), LAYOUT
    ).logits(state, batch)
    np.testing.assert_allclose(logits, 7.0 * cosines, rtol=1e-6)
    ones = np.ones(10, np.float32)
    losses = per_example_losses(
        run.loss, cosines, batch.labels, class_counts=ones, class_weights=ones
    )
    counts = steps.program(run, LAYOUT).evaluate(state, batch)
    np.testing.assert_allclose(counts.loss, losses.sum(), rtol=1e-5)
    exported = jax.jit(steps.probabilities_of(run, state))(batch.inputs)
    np.testing.assert_allclose(exported, jax.nn.softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("lam", [math.inf, 0.5, -2.0])
def test_padding_changes_nothing(lam):
    """Not the parameters, nor BatchNorm's statistics, nor the attention, nor sums."""
    changes = problem.CONVNET | {"method.lam": lam, "model.dropout": 0.3}
    run = configs.replace(problem.NORMALIZED, changes)
    exact = problem.train(run, batches=lambda step: problem.batch(step, 10, 10))

    def padded(step):
        batch = problem.batch(step, 10, 16)
        batch.inputs[10:] = 255  # what padding holds is of no account
        return batch

    problem.same(problem.train(run, batches=padded), exact, rtol=1e-3, atol=1e-5)


def test_the_weighted_mean_divides_by_the_weights_of_the_batch():
    """As PyTorch's weighted mean: a common factor on the class weights falls out."""
    weights = np.linspace(0.5, 2.0, 10)
    state, _ = problem.train(WEIGHTED_MEAN, 2, weights=weights)
    scaled, _ = problem.train(WEIGHTED_MEAN, 2, weights=7.0 * weights)
    problem.same(scaled.params, state.params)
    one, _ = problem.train(WEIGHTED_MEAN, 1, weights=weights)
    rate = 0.05 / np.mean(weights[problem.batch(0).labels])
    changes = {"loss.class_weights_norm": "examples", "optimizer.learning_rate": rate}
    plain = configs.replace(WEIGHTED_MEAN, changes)
    other, _ = problem.train(plain, 1, weights=weights)
    problem.same(one.params, other.params)


def test_the_weighted_mean_leaves_padding_out():
    weights = np.linspace(0.5, 2.0, 10)
    padded, exact = (
        problem.train(
            WEIGHTED_MEAN,
            1,
            weights=weights,
            batches=lambda step, size=size: problem.batch(step, 10, size),
        )[0]
        for size in (problem.SIZE, 10)
    )
    problem.same(padded.params, exact.params)


def test_base_weights_are_those_of_the_library():
    """Without attention the weighted mean; with it, attention to unweighted losses."""
    base = configs.replace(RUN, {"loss.class_weights_in": "base"})
    weights = np.linspace(0.5, 2.0, 10)
    one, _ = problem.train(configs.replace(base, SGD), 2, weights=weights)
    mean, _ = problem.train(WEIGHTED_MEAN, 2, weights=weights)
    problem.same(one.params, mean.params)
    at_once = {"method.start_at": 0.0, "method.gamma": 1.0, "method.init_s": None}
    attends = configs.replace(base, at_once)
    _, (weighted,) = problem.train(attends, 1, weights=weights)
    _, (plain,) = problem.train(attends, 1)
    expected = weights * plain.weight_of_class  # v_i exp(L_i/λ), the same losses
    expected *= problem.SIZE / expected.sum()
    np.testing.assert_allclose(weighted.weight_of_class, expected, rtol=1e-4)
    np.testing.assert_allclose(weighted.loss, plain.loss, rtol=1e-6)


def test_the_sums_are_those_of_the_losses(by_pullback):
    """Σp over the batch and Algorithm 1's normaliser agree after the switch."""
    _, seen = by_pullback
    for one in seen[:2]:  # λ = ∞
        assert one.weight == one.examples == problem.SIZE
        assert one.effective == pytest.approx(1.0)
    labels = problem.batch(3).labels
    np.testing.assert_array_equal(
        seen[3].examples_of_class, np.bincount(labels, minlength=10)
    )
    assert seen[3].weight_of_class.sum() == pytest.approx(float(seen[3].weight))
    wrong = problem.WRONG[problem.batch(3).index]
    assert seen[3].examples_mislabelled == wrong.sum()
    assert 0 < seen[3].weight_mislabelled < seen[3].weight
    assert 1 / problem.SIZE <= seen[3].effective < 1.0
    # The first step of attention: s is γ times the batch's mean, so Σp is n/γ.
    assert seen[2].weight == pytest.approx(problem.SIZE / 0.5, rel=1e-5)


def test_what_is_not_trained_stays():
    """But for the head alone, of which `two_stage` has a test."""
    run = configs.replace(problem.NORMALIZED, {"trainable": "last_block"})
    before = nnx.state(steps.init_network(run, 0), nnx.Param)
    state, _ = problem.train(run, 2)
    drawn = dict(nnx.to_flat_state(before))
    trained = dict(nnx.to_flat_state(state.params))
    frozen = dict(nnx.to_flat_state(state.frozen))
    assert drawn.keys() == trained.keys() | frozen.keys()
    assert {path[0] for path in trained} == {"head", "blocks"}
    for path, value in frozen.items():
        np.testing.assert_array_equal(value[...], drawn[path][...])
    for path, value in trained.items():
        assert np.any(value[...] != drawn[path][...]), path
    # BatchNorm's statistics move all the same, as in the authors' code.
    fresh = jax.tree.leaves(nnx.state(steps.init_network(run, 0), nnx.BatchStat))
    moved = jax.tree.leaves(state.statistics)
    assert all(np.any(a != b) for a, b in zip(fresh, moved, strict=True))


def test_truncation_drops_what_the_network_does_not_believe():
    run = configs.replace(RUN, {"loss.name": "truncated", "loss.k": 0.1})
    program = steps.program(run, LAYOUT)
    state = program.init(steps.init_network(run, 0), 0, problem.EXAMPLES)
    assert state.kept.shape == (problem.EXAMPLES,)
    assert np.all(state.kept)
    batch = problem.batch(0, 10)
    pruned = jax.device_get(program.prune(state, batch))

    network = steps.init_network(run, 0)
    network.eval()
    images = jnp.float32((batch.inputs / 255.0 - 0.5) / 0.25)
    probabilities = np.asarray(jax.nn.softmax(network(images)))
    believed = probabilities[np.arange(problem.SIZE), batch.labels] > 0.1
    expected = np.ones(problem.EXAMPLES, bool)
    expected[batch.index[:10]] = believed[:10]
    np.testing.assert_array_equal(pruned.kept, expected)
    assert not believed[:10].all()

    # What is dropped has no gradient: with all dropped the parameters only decay.
    nothing = pruned._replace(kept=np.zeros(problem.EXAMPLES, bool))
    hyperparams = methods.step_hyperparams(run, 2, 0)
    after, _ = program.train(hyperparams)(
        LAYOUT.replicate(nothing), batch, problem.given(LAYOUT), hyperparams
    )
    problem.same(
        after.params, jax.tree.map(lambda w: w * (1 - 0.05 * 1e-3), nothing.params)
    )


def test_every_seed_and_update_draws_its_own_numbers():
    """Parameters; and dropout, of the same batch and network."""
    one, other = (steps.init_network(RUN, seed) for seed in range(2))
    assert np.all(one.head.kernel[...] != other.head.kernel[...])
    still = {"model.dropout": 0.5, "optimizer.learning_rate": 1e-30}
    losses = []
    for seed in range(2):
        run = configs.replace(RUN, still | {"seed": seed})
        _, seen = problem.train(run, 2, batches=lambda _: problem.batch(0), network=one)
        losses += [float(each.loss) for each in seen]
    assert len({*losses}) == 4


def test_a_loss_that_is_not_finite_names_its_examples():
    batch = problem.batch(0)
    network = steps.init_network(RUN, 0)
    # Class 3 scores infinity, so a loss is infinite but for labels of 3.
    bias = np.zeros(10, np.float32)
    bias[3] = np.inf
    network.head.bias[...] = jnp.asarray(bias)
    _, (seen,) = problem.train(RUN, 1, batches=lambda _: batch, network=network)
    named = seen.not_finite[seen.not_finite >= 0]
    assert len(named) == steps.NAMED
    assert set(named) <= set(batch.index.tolist())


def test_class_weights_are_off_until_their_time():
    run = configs.replace(
        problem.RUN,
        {"epochs": 4, "loss": configs.Loss(class_weights=True, class_weights_from=0.5)},
    )
    np.testing.assert_array_equal(class_weights(run, problem.COUNTS, 1), 1.0)
    weights = class_weights(run, problem.COUNTS, 2)
    # A class without an example weighs one, and changes no other.
    absent = class_weights(run, np.append(problem.COUNTS, 0), 2)
    np.testing.assert_array_equal(absent, np.append(weights, 1.0))
    per_count = (1 - 0.9999) / (1 - 0.9999 ** problem.COUNTS.astype(float))
    np.testing.assert_allclose(weights, 10 * per_count / per_count.sum(), rtol=1e-5)


def test_class_weights_have_the_beta_that_is_given():
    loss = configs.Loss(class_weights=True, effective_beta=0.9)
    weights = class_weights(configs.replace(RUN, {"loss": loss}), problem.COUNTS, 0)
    per_count = (1 - 0.9) / (1 - 0.9 ** problem.COUNTS.astype(float))
    np.testing.assert_allclose(weights, 10 * per_count / per_count.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("focal", {"focusing": 2.0}),
        ("ldam", {"max_margin": 0.3}),
        ("symmetric", {"alpha": 6.0}),
        ("symmetric", {"beta": 0.1}),
        ("generalized", {"q": 0.3}),
        ("logit_adjusted", {"tau": 0.3}),
    ],
)
def test_a_loss_reads_what_it_is_set_to(name, changes):
    labels, counts = problem.batch(0).labels, problem.COUNTS.astype(np.float32)
    logits = jax.random.normal(jax.random.key(0), (problem.SIZE, 10))
    found, default = (
        per_example_losses(
            loss, logits, labels, class_counts=counts, class_weights=np.ones(10)
        )
        for loss in (configs.Loss(name, **changes), configs.Loss(name))
    )
    assert np.all(np.abs(found - default) > 1e-4)


def test_a_logit_norm_makes_losses_blind_to_the_size_of_logits():
    def total(logits, loss):
        labels, ones = problem.batch(0).labels, jnp.ones(10)
        counted = {"class_counts": ones, "class_weights": ones}
        return jnp.sum(per_example_losses(loss, logits, labels, **counted))

    logits = jax.random.normal(jax.random.key(0), (problem.SIZE, 10)) * 3.0
    normed = configs.Loss(logit_norm=1.0)
    value = total(logits, normed)
    np.testing.assert_allclose(total(5.0 * logits, normed), value, rtol=1e-4)
    assert value != total(logits, configs.Loss())
