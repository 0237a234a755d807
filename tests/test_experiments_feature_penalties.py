"""OLTR's and range loss's penalties, against loops in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs
from experiments.train import feature_penalties
from experiments.train.losses import per_example_losses

BATCH, SIZE, CLASSES = 14, 5, 6
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(BATCH, SIZE))
CENTROIDS = RNG.normal(size=(CLASSES, SIZE))
# Classes of six, one, three, two and none, and one that is padding alone.
LABELS = np.array([0, 2, 0, 2, 0, 1, 3, 5, 0, 2, 3, 0, 0, 3])
PRESENT = LABELS != 5
PRESENT[-1] = False


def _centroids(v, y, here, m):
    """What is added to each example's loss."""
    there = np.flatnonzero(here)
    apart = sum(
        np.sum((v[i] - m[c]) ** 2) for i in there for c in range(len(m)) if c != y[i]
    )
    repulsion = max(0.0, 10.0 - apart / (len(there) * len(m)))
    own = np.array([np.sum((v[i] - m[y[i]]) ** 2) for i in range(len(v))])
    return 0.01 * (0.5 * own + 0.01 * repulsion)


def _range(v, y, here, margin):
    intra, means = 0.0, []
    for label in np.unique(y[here]):
        own = v[here & (y == label)]
        means.append(own.mean(axis=0))
        pairs = itertools.combinations(own, 2)
        largest = sorted((np.sum((a - b) ** 2) for a, b in pairs), reverse=True)[:2]
        if largest and min(largest) > 0.0:
            intra += len(largest) / sum(1.0 / distance for distance in largest)
    apart = [np.sum((a - b) ** 2) for a, b in itertools.combinations(means, 2)]
    return intra, max(0.0, margin - min(apart)) if apart else 0.0


@pytest.mark.parametrize("spread", [0.3, 1.0, 30.0])
def test_the_penalty_of_oltr(spread):
    """Where features repel, and where they are further than the margin."""
    v, m = spread * FEATURES, spread * CENTROIDS
    expected = _centroids(v, LABELS, PRESENT, m)
    penalty = jax.jit(feature_penalties.centroids)
    found = penalty(jnp.float32(v), LABELS, PRESENT, jnp.float32(m))
    where = PRESENT
    np.testing.assert_allclose(found[where], expected[where], rtol=2e-5)
    noise = jnp.float32(np.where(PRESENT[:, None], v, 1e6))
    other = penalty(noise, LABELS, PRESENT, jnp.float32(m))
    np.testing.assert_allclose(other[where], expected[where], rtol=2e-5)


@pytest.mark.parametrize(
    "labels",
    [LABELS, np.zeros(BATCH, int), np.arange(BATCH), np.arange(BATCH) // 2],
    ids=["mixed", "one class", "each its own", "pairs"],
)
@pytest.mark.parametrize("margin", [0.5, 20.0])
def test_the_terms_of_range_loss(labels, margin):
    expected = _range(FEATURES, labels, PRESENT, margin)
    terms = jax.jit(feature_penalties.range_terms)
    found = terms(jnp.float32(FEATURES), labels, PRESENT, margin)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    noise = jnp.float32(np.where(PRESENT[:, None], FEATURES, 1e6))
    np.testing.assert_allclose(terms(noise, labels, PRESENT, margin), found, rtol=1e-6)


@pytest.mark.parametrize("name", ["oltr", "range"])
def test_penalties_are_those_of_the_whole_batch_on_any_devices(name):
    """With the gradients of features and of centroids."""
    rest = (jnp.asarray(LABELS), jnp.asarray(PRESENT))
    v, m = jnp.float32(FEATURES), jnp.float32(CENTROIDS)
    weights = jnp.float32(PRESENT / PRESENT.sum())

    def penalty(v, y, here, m, axis_name=None):
        if name == "oltr":
            return feature_penalties.centroids(v, y, here, m, axis_name)
        terms = feature_penalties.range_terms(v, y, here, 5.0, axis_name)
        return sum(terms) * jnp.ones(len(y))

    def whole(v, m):
        return jnp.sum(weights * penalty(v, *rest, m))

    def spread(v, m):
        parts = jax.tree.map(lambda x: x.reshape(2, 7, *x.shape[1:]), (v, *rest))
        on_one = functools.partial(penalty, axis_name="i")
        over = jax.vmap(on_one, in_axes=(0, 0, 0, None), axis_name="i")(*parts, m)
        return jnp.sum(weights * over.reshape(-1))

    (value, gradients), (other, pieces) = (
        jax.jit(jax.value_and_grad(total, (0, 1)))(v, m) for total in (whole, spread)
    )
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for one, expected in zip(pieces, gradients, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-6)


def _loss(loss, features, kernel, present=PRESENT):
    """Mean over those present, through a linear head."""
    losses = per_example_losses(
        loss,
        features @ kernel,
        LABELS,
        class_counts=jnp.ones(CLASSES),
        class_weights=jnp.ones(CLASSES),
        features=features,
        present=present,
        centroids=jnp.float32(CENTROIDS),
    )
    return jnp.mean(losses, where=present)


@pytest.mark.parametrize("name", ["oltr", "range"])
def test_the_mean_loss_is_cross_entropy_and_the_penalty(name):
    kernel = jnp.float32(RNG.normal(size=(SIZE, CLASSES)))
    features = jnp.float32(FEATURES)
    mean = jax.jit(_loss, static_argnums=0)
    plain = mean(configs.Loss(), features, kernel)
    loss = configs.Loss(name, range_intra=0.3, range_inter=0.7, range_margin=4.0)
    intra, inter = _range(FEATURES, LABELS, PRESENT, 4.0)
    added = {
        "oltr": _centroids(FEATURES, LABELS, PRESENT, CENTROIDS)[PRESENT].mean(),
        "range": 0.3 * intra + 0.7 * inter,
    }[name]
    np.testing.assert_allclose(mean(loss, features, kernel) - plain, added, rtol=1e-4)


@pytest.mark.parametrize("name", ["oltr", "range"])
@pytest.mark.parametrize(
    "features",
    [
        np.zeros((BATCH, SIZE)),
        np.repeat(FEATURES[:7], 2, axis=0),
        CENTROIDS[LABELS],
        1e4 * FEATURES,
    ],
    ids=["zero", "in twos", "centroids", "large"],
)
def test_gradients_are_finite(name, features):
    kernel = jnp.float32(RNG.normal(size=(SIZE, CLASSES)))
    grad = jax.jit(jax.grad(_loss, argnums=(1, 2)), static_argnums=0)
    for present in (PRESENT, np.arange(BATCH) == 0):
        found = grad(configs.Loss(name), jnp.float32(features), kernel, present)
        assert all(np.all(np.isfinite(g)) for g in found)


@pytest.mark.parametrize("name", ["oltr", "range"])
def test_finite_features_pass_the_checks_of_debug_nans_and_debug_infs(name):
    kernel = jnp.float32(RNG.normal(size=(SIZE, CLASSES)))
    with jax.debug_nans(True), jax.debug_infs(True):
        for present in (PRESENT, np.arange(BATCH) == 0):
            function = functools.partial(_loss, configs.Loss(name), present=present)
            jax.value_and_grad(function)(jnp.float32(FEATURES), kernel)


def test_the_gradient_of_range_loss_is_that_of_its_formula():
    """Of central differences in float64, where no two distances change places."""
    terms = lambda v: sum(feature_penalties.range_terms(v, LABELS, PRESENT, 20.0))
    grad = jax.jit(jax.grad(terms))
    found = np.asarray(grad(jnp.float32(FEATURES)))
    value = lambda v: sum(_range(v, LABELS, PRESENT, 20.0))
    for i, j in itertools.product(range(0, BATCH, 3), range(0, SIZE, 2)):
        step = np.zeros_like(FEATURES)
        step[i, j] = 1e-6
        slope = (value(FEATURES + step) - value(FEATURES - step)) / 2e-6
        assert found[i, j] == pytest.approx(slope, rel=1e-3, abs=1e-4)
