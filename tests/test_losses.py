"""Per-example losses against NumPy float64 transcriptions of their formulas."""

import collections
import math
from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absgd_jax import losses

COUNTS = [500, 100, 40, 9, 2]
CLASSES = len(COUNTS)
WEIGHTS = np.array([0.2, 0.5, 1.0, 1.3, 2.0])

# --- The formulas as the papers write them: f is [batch, classes], y is [batch] ------


def p_of(f, y):
    e = np.exp(f - f.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True))[np.arange(len(y)), y]


def ce(f, y):
    return -np.log(p_of(f, y))


def focal(f, y, g):
    p = p_of(f, y)
    return (1 - p) ** g * -np.log(p)


def class_balanced_focal(f, y, g, w):
    z = w[y] * ce(f, y)
    return (1 - np.exp(-z)) ** g * z


def ldam(f, y, s, max_margin):
    margins = np.array(COUNTS) ** -0.25
    margins *= max_margin / margins.max()
    return ce(s * (f - margins * np.eye(CLASSES)[y]), y)


def sce(f, y, a, b, smallest=1e-7):
    e = np.exp(f)
    p = e / e.sum(-1, keepdims=True)
    one_hot = np.eye(CLASSES)[y]
    cross = -(one_hot * np.log(p.clip(smallest, 1))).sum(-1)
    reverse = -(p * np.log(one_hot.clip(1e-4, 1))).sum(-1)
    return a * cross + b * reverse


def gce(f, y, q):
    return (1 - p_of(f, y) ** q) / q


def tce(f, y, q, k, keep=None):
    v = p_of(f, y) > k if keep is None else keep
    return v * (gce(f, y, q) - (1 - k**q) / q) + (1 - k**q) / q


def logit_adjusted(f, y, tau):
    return ce(f + tau * np.log(np.array(COUNTS) / sum(COUNTS)), y)


KEEP = np.arange(64) % 3 > 0

# name: (function, formula, |d loss / d f_y| as p_y -> 0)
CASES = {
    "ce": (losses.softmax_cross_entropy_with_integer_labels, ce, 1),
    "focal": (losses.softmax_focal_loss, partial(focal, g=1.0), 1),
    "focal_0.3": (
        partial(losses.softmax_focal_loss, focusing=0.3),
        partial(focal, g=0.3),
        1,
    ),
    "focal_2": (partial(losses.softmax_focal_loss, focusing=2), partial(focal, g=2), 1),
    "ldam": (
        partial(losses.ldam_loss, class_counts=COUNTS),
        partial(ldam, s=30, max_margin=0.5),
        30,
    ),
    "ldam_3": (
        partial(losses.ldam_loss, class_counts=COUNTS, scale=3, max_margin=0.3),
        partial(ldam, s=3, max_margin=0.3),
        3,
    ),
    "sce": (losses.symmetric_cross_entropy, partial(sce, a=0.1, b=1.0), 0),
    "sce_cifar100": (
        partial(losses.symmetric_cross_entropy, alpha=6, beta=0.1),
        partial(sce, a=6, b=0.1),
        0,
    ),
    "sce_unclipped": (
        partial(losses.symmetric_cross_entropy, smallest_probability=0),
        partial(sce, a=0.1, b=1.0, smallest=0),
        0.1,
    ),
    "gce": (losses.generalized_cross_entropy, partial(gce, q=0.7), 0),
    "gce_1": (
        partial(losses.generalized_cross_entropy, q=1),
        partial(gce, q=1),
        0,
    ),
    "tce": (
        losses.truncated_generalized_cross_entropy,
        partial(tce, q=0.7, k=0.5),
        0,
    ),
    "tce_0.2": (
        partial(losses.truncated_generalized_cross_entropy, q=0.4, k=0.2),
        partial(tce, q=0.4, k=0.2),
        0,
    ),
    "logit_adjusted": (
        partial(losses.logit_adjusted_cross_entropy, class_counts=COUNTS),
        partial(logit_adjusted, tau=1.0),
        1,
    ),
    "logit_adjusted_1.5": (
        partial(losses.logit_adjusted_cross_entropy, class_counts=COUNTS, tau=1.5),
        partial(logit_adjusted, tau=1.5),
        1,
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
every_loss = pytest.mark.parametrize(
    "name", ["ce", "focal_0.3", "ldam", "sce", "gce", "tce", "logit_adjusted"]
)


def batch(seed=0, size=64, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((size, CLASSES))
    return logits, rng.integers(CLASSES, size=size)


# --- Values --------------------------------------------------------------------------


@every_case
def test_equals_the_formula(name):
    loss, formula, _ = CASES[name]
    logits, labels = batch()
    got = loss(jnp.asarray(logits, jnp.float32), labels)
    np.testing.assert_allclose(got, formula(logits, labels), rtol=5e-5, atol=5e-6)
    with jax.enable_x64(True):
        got = loss(jnp.asarray(logits), labels)
        np.testing.assert_allclose(got, formula(logits, labels), rtol=1e-11, atol=1e-13)


@every_case
def test_class_weights_multiply_the_loss_of_their_class(name):
    loss, formula, _ = CASES[name]
    logits, labels = batch(1)
    expected = WEIGHTS[labels] * formula(logits, labels)
    if name.startswith("focal"):  # inside the modulating factor as well
        g = {"focal": 1.0, "focal_0.3": 0.3, "focal_2": 2}[name]
        expected = class_balanced_focal(logits, labels, g, WEIGHTS)
    with jax.enable_x64(True):
        got = loss(jnp.asarray(logits), labels, class_weights=WEIGHTS)
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


def test_truncation_follows_the_flags_it_is_given():
    logits, labels = batch(2)
    expected = tce(logits, labels, 0.7, 0.5, KEEP)
    for dtype in (bool, np.int32, np.float32):
        keep = KEEP.astype(dtype)
        got = losses.truncated_generalized_cross_entropy(logits, labels, keep=keep)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_truncation_by_default_is_the_smaller_of_the_pruned_and_the_kept_loss():
    logits, labels = batch(3)
    tce = partial(losses.truncated_generalized_cross_entropy, logits, labels)
    keep = (
        jnp.exp(-losses.softmax_cross_entropy_with_integer_labels(logits, labels)) > 0.5
    )
    assert 0 < keep.sum() < keep.size
    kept, pruned = tce(keep=jnp.ones(64)), tce(keep=jnp.zeros(64))
    np.testing.assert_array_equal(tce(), jnp.minimum(kept, pruned))
    np.testing.assert_array_equal(tce(), tce(keep=keep))
    np.testing.assert_array_equal(kept, tce(k=0.0))


def test_a_pruned_example_has_no_gradient():
    logits, labels = batch(4)
    grads = jax.grad(
        lambda f: losses.truncated_generalized_cross_entropy(f, labels, keep=KEEP).sum()
    )(jnp.asarray(logits, jnp.float32))
    np.testing.assert_array_equal(jnp.any(grads != 0, axis=-1), KEEP)


@pytest.mark.parametrize("name", ["sce", "sce_cifar100"])
def test_symmetric_cross_entropy_is_bounded(name):
    alpha, beta = {"sce": (0.1, 1.0), "sce_cifar100": (6.0, 0.1)}[name]
    got = CASES[name][0](jnp.array([[1e4, 0, 0, 0, 0]]), jnp.array([1]))
    expected = alpha * math.log(1e7) + beta * math.log(1e4)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# Five examples of ten logits each, and what the PyTorch code that the authors of ABSGD
# took over from the re-implementation of SCE makes of them. It does not clip inside CE;
# inside RCE it clips at 1e-7, which adds to a loss at most 9 * 1e-7 * 9.22 beta.
# fmt: off
PUBLISHED_LOGITS = np.array(
    [
        [
            -21.52588650974729, 34.89517722783357, 74.19435268302304,
            -40.03088135687182, 22.708366723692993, -0.026630134378114012,
            -6.080452882031052, 6.81392815330051, -1.5920712176517704,
            -7.328873946562521,
        ],
        [
            -33.44964157298234, 38.51682451475094, -11.947274468632445,
            0.31402541334738926, 36.80138851401012, -7.89012701871651,
            -13.595443934764496, -25.40727395310784, -47.16519916710732,
            5.295855775666958,
        ],
        [
            19.07509527676656, 34.017952872451545, 29.546861069563825,
            -24.249174630309263, -23.12970386386434, -1.7588138991883098,
            9.227967042454782, -16.981849886553142, -0.8884144942646421,
            -2.85100055263925,
        ],
        [
            8.084338413994999, 25.801407546550987, 0.33537570501024766,
            -6.228771518313639, 22.567627565695858, 4.592720590048999,
            7.131642603946299, -69.2956090608499, 15.613026958892194,
            1.8761637761047707,
        ],
        [
            24.030210806117672, -1.036437245606066, 30.09207311524213,
            -31.660058246061134, 20.009535274298038, 8.411850697512968,
            -7.777021963384109, -8.780501285776603, -9.359144603362537,
            71.77831377375337,
        ],
    ]
)
PUBLISHED_LABELS = np.array([2, 1, 2, 0, 3])
PUBLISHED_LOSSES = {
    (0.1, 1.0): [
        8.289306449890137e-06, 1.4207573261369302, 9.554465244642278,
        10.985921462397254, 19.55418507013178,
    ],
    (6.0, 0.1): [
        8.289306449890138e-07, 1.1329248079565901, 27.805394288659667,
        107.4555759986846, 621.551266905702,
    ],
}
PUBLISHED_SLOPES = {
    (0.1, 1.0): [
        0.0, -1.2053686882666232, -0.20182013169950727,
        -0.1000001771362114, -0.1,
    ],
    (6.0, 0.1): [
        0.0, -1.0337720896293996, -5.942461805289203,
        -5.999999901247509, -6.0,
    ],
}
# fmt: on


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (6.0, 0.1)])
def test_symmetric_cross_entropy_without_clipping_equals_published_code(alpha, beta):
    expected = PUBLISHED_LOSSES[alpha, beta]
    with jax.enable_x64(True):
        loss = partial(
            losses.symmetric_cross_entropy,
            labels=PUBLISHED_LABELS,
            alpha=alpha,
            beta=beta,
            smallest_probability=0.0,
        )
        got, pullback = jax.vjp(loss, jnp.asarray(PUBLISHED_LOGITS))
        (grads,) = pullback(jnp.ones_like(got))
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-5 * beta)
        np.testing.assert_allclose(
            grads[np.arange(5), PUBLISHED_LABELS],
            PUBLISHED_SLOPES[alpha, beta],
            rtol=1e-6,
            atol=1e-5 * beta,
        )


@pytest.mark.parametrize("smallest", [0.0, 1e-7, 1e-3, 0.5])
def test_symmetric_cross_entropy_clips_where_it_is_told_also_if_traced(smallest):
    logits, labels = batch(17, scale=8.0)
    loss = lambda f, p: losses.symmetric_cross_entropy(
        f, labels, alpha=2.0, smallest_probability=p
    )
    with jax.enable_x64(True):
        clipped = p_of(logits, labels) < smallest
        assert smallest == 0.0 or 0 < clipped.sum() < len(labels)
        expected = sce(logits, labels, 2.0, 1.0, smallest)
        unclipped, reverse = (
            jax.grad(lambda f, a=a: losses.symmetric_cross_entropy(
                f, labels, alpha=a, smallest_probability=0.0
            ).sum())(logits)
            for a in (2.0, 0.0)
        )  # fmt: skip
        for function in (loss, jax.jit(loss)):
            np.testing.assert_allclose(
                function(logits, smallest), expected, rtol=1e-8, atol=1e-12
            )
            grads = jax.grad(lambda f, g=function: g(f, smallest).sum())(logits)
            np.testing.assert_allclose(
                grads, np.where(clipped[:, None], reverse, unclipped), rtol=1e-12
            )


# --- Limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rtol"),
    [
        (partial(losses.softmax_focal_loss, focusing=0.0), 0),
        (partial(losses.generalized_cross_entropy, q=1e-9), 1e-6),
        (partial(losses.symmetric_cross_entropy, alpha=1.0, beta=0.0), 0),
        (
            partial(losses.ldam_loss, class_counts=COUNTS, max_margin=0.0, scale=1.0),
            0,
        ),
        (partial(losses.ldam_loss, class_counts=[7] * 5, max_margin=0.0, scale=1), 0),
        (
            partial(losses.logit_adjusted_cross_entropy, class_counts=COUNTS, tau=0.0),
            0,
        ),
        (
            partial(losses.logit_adjusted_cross_entropy, class_counts=[7] * 5),
            2e-5,
        ),
        (
            lambda f, y: losses.softmax_cross_entropy_with_integer_labels(
                f, y, class_weights=losses.class_balanced_weights(COUNTS, beta=0.0)
            ),
            0,
        ),
        (
            partial(
                losses.truncated_generalized_cross_entropy, q=1e-9, keep=np.ones(64)
            ),
            1e-6,
        ),
    ],
)
def test_limits_are_cross_entropy(loss, rtol):
    logits, labels = batch(5)
    logits = jnp.asarray(logits, jnp.float32)
    expected = losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(loss(logits, labels), expected, rtol=rtol)


# --- Gradients -----------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_gradient_equals_finite_differences(name, class_weights):
    loss = partial(CASES[name][0], class_weights=class_weights)
    logits, labels = batch(6, size=8, scale=1.0)
    with jax.enable_x64(True):
        grads = jax.grad(lambda f: loss(f, labels).sum())(jnp.asarray(logits))
        h = 1e-5
        for c in range(CLASSES):
            step = h * np.eye(CLASSES)[c]
            slope = (loss(logits + step, labels) - loss(logits - step, labels)) / (
                2 * h
            )
            np.testing.assert_allclose(grads[:, c], slope, rtol=1e-6, atol=1e-7)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_value_and_gradient_are_right_at_the_extremes(name, dtype, class_weights):
    loss, _, slope = CASES[name]
    high = 1e4
    logits = jnp.array(
        [
            [high, -high, -high, -high, -high],  # certain and right
            [-high, -high, high, -high, -high],  # certain and wrong
            [0, 0, 0, 0, high],
        ],
        dtype,
    )
    labels = jnp.array([0, 1, 3])
    values, pullback = jax.vjp(
        lambda f: loss(f, labels, class_weights=class_weights), logits
    )
    (grads,) = pullback(jnp.ones_like(values))
    assert values.dtype == jnp.float32
    assert grads.dtype == dtype
    assert jnp.isfinite(values).all()
    assert values[0] == 0 or name.startswith("tce")
    expected = slope * np.array([[0] * 5, [0, -1, 1, 0, 0], [0, 0, 0, -1, 1]])
    if class_weights is not None:
        expected = expected * class_weights[labels][:, None]
    np.testing.assert_allclose(
        grads.astype(jnp.float32), expected, rtol=float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize("m", [-80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 30.0, 80.0])
def test_float32_keeps_its_relative_precision_in_the_tails(m):
    """Naive forms give 0 or NaN where `1 - p_y` is below 6e-8."""
    f, y = jnp.array([m, 0.0]), jnp.array(0)
    p, rest = 1 / (1 + math.exp(-m)), 1 / (1 + math.exp(m))
    ce = math.log1p(math.exp(-m))
    for loss, value, slope in [
        (losses.softmax_cross_entropy_with_integer_labels, ce, -rest),
        (
            partial(losses.softmax_focal_loss, focusing=0.3),
            rest**0.3 * ce,
            -(rest**1.3) - 0.3 * p * rest**0.3 * ce,
        ),
        (
            losses.generalized_cross_entropy,
            -math.expm1(-0.7 * ce) / 0.7,
            -rest * p**0.7,
        ),
        (
            partial(losses.symmetric_cross_entropy, alpha=0.0),
            math.log(1e4) * rest,
            -math.log(1e4) * p * rest,
        ),
    ]:
        np.testing.assert_allclose(loss(f, y), value, rtol=1e-5, atol=1e-37)
        np.testing.assert_allclose(
            jax.grad(loss)(f, y), [slope, -slope], rtol=2e-5, atol=1e-37
        )


def test_zero_class_weight_gives_zero_focal_loss_and_gradient():
    f, y = jnp.array([[1.0, 0.0]]), jnp.array([0])
    weighted = partial(
        losses.softmax_focal_loss, focusing=0.5, class_weights=[0.0, 1.0]
    )
    value, grads = jax.value_and_grad(lambda f: weighted(f, y).sum())(f)
    assert value == 0
    np.testing.assert_array_equal(grads, 0.0)


def test_gradient_reaches_traced_class_weights():
    logits, labels = batch(7)
    total = lambda w: losses.softmax_cross_entropy_with_integer_labels(
        logits, labels, class_weights=w
    ).sum()
    expected = np.bincount(labels, weights=ce(logits, labels), minlength=CLASSES)
    grads = jax.grad(total)(jnp.asarray(WEIGHTS, jnp.float32))
    np.testing.assert_allclose(grads, expected, rtol=1e-5)


# --- Masked classes ------------------------------------------------------------------

INF = math.inf
MASKED = {
    "one": [0.3, -1.0, -INF, 2.0, 0.5],
    "several": [0.3, -INF, -INF, 2.0, -INF],
    "all but the label": [0.3, -INF, -INF, -INF, -INF],
    "the label": [-INF, -1.0, 0.5, 2.0, 0.5],
    "the label and others": [-INF, -INF, 0.5, 2.0, -INF],
    "all but one, and the label": [-INF, -INF, -INF, 2.0, -INF],
}
every_mask = pytest.mark.parametrize("mask", MASKED)


def value_and_grad(loss, row, label=0):
    return jax.value_and_grad(loss)(jnp.asarray(row), jnp.array(label))


@every_loss
@every_mask
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_a_masked_class_is_the_limit_of_an_ever_smaller_logit(name, mask, weights):
    loss = partial(CASES[name][0], class_weights=weights)
    row = np.array(MASKED[mask])
    with jax.enable_x64(True):
        value, grads = value_and_grad(loss, row)
        near_value, near_grads = value_and_grad(loss, np.maximum(row, -1e8))
        if near_value > 1e5:
            assert value == INF
        else:
            np.testing.assert_allclose(value, near_value, rtol=1e-12)
        np.testing.assert_allclose(grads, near_grads, rtol=1e-12)


@every_loss
@every_mask
def test_the_finite_mask_of_a_dtype_does_what_minus_infinity_does(name, mask):
    row = jnp.array(MASKED[mask])
    value, grads = value_and_grad(CASES[name][0], row)
    for dtype in ("float32", "bfloat16", "float16"):
        least = jnp.finfo(dtype).min
        near_value, near_grads = value_and_grad(
            CASES[name][0], jnp.maximum(row, jnp.asarray(least, jnp.float32))
        )
        np.testing.assert_allclose(near_grads, grads, rtol=1e-6)
        if np.isfinite(value):
            np.testing.assert_allclose(near_value, value, rtol=1e-6)
        else:
            assert near_value > 5e4


@every_loss
def test_without_another_class_nothing_is_to_be_learnt(name):
    value, grads = value_and_grad(CASES[name][0], MASKED["all but the label"])
    assert value == 0.0
    np.testing.assert_array_equal(grads, 0.0)


@every_mask
def test_masks_do_to_cross_entropy_what_they_do_in_optax(mask):
    optax_loss = optax.softmax_cross_entropy_with_integer_labels
    for row in (jnp.array(MASKED[mask]), jnp.maximum(jnp.array(MASKED[mask]), -1e30)):
        value, grads = value_and_grad(
            losses.softmax_cross_entropy_with_integer_labels, row
        )
        optax_value, optax_grads = value_and_grad(optax_loss, row)
        np.testing.assert_allclose(value, optax_value, rtol=1e-6)
        np.testing.assert_allclose(grads, optax_grads, rtol=1e-6)


@every_loss
def test_without_any_class_the_loss_is_nan_and_the_gradient_zero(name):
    logits = jnp.stack([jnp.full(CLASSES, -INF), jnp.zeros(CLASSES)])
    labels = jnp.array([1, 0])
    loss = partial(CASES[name][0], class_weights=WEIGHTS)
    values, pullback = jax.vjp(lambda f: loss(f, labels), logits)
    np.testing.assert_array_equal(jnp.isnan(values), [True, False])
    (grads,) = pullback(jnp.ones(2))
    np.testing.assert_array_equal(grads[0], 0.0)
    _, tangents = jax.jvp(lambda f: loss(f, labels), (logits,), (jnp.ones((2, 5)),))
    assert jnp.isfinite(tangents).all()
    masked = jax.grad(lambda f: loss(f, labels)[1])(logits)
    np.testing.assert_array_equal(masked, grads)


@every_loss
@given(
    row=hnp.arrays(
        np.float32,
        CLASSES,
        elements=st.sampled_from(
            [-INF, -1e36, -1e4, -90.0, -1.0, 0.0, 2.0, 90.0, 1e4, 1e36, INF]
        ),
    ),
    label=st.integers(0, CLASSES - 1),
    weight=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_a_finite_loss_has_a_finite_gradient(name, row, label, weight):
    loss = partial(CASES[name][0], class_weights=[weight] * CLASSES)
    value, grads = value_and_grad(loss, row, label)
    if np.isfinite(value):
        assert np.isfinite(grads).all()
    if not np.isposinf(row).any() and not np.isneginf(row).all():
        assert not np.isnan(value)
        assert np.isfinite(grads).all()
    if weight == 0.0:
        np.testing.assert_array_equal(np.nan_to_num(value, nan=0.0), 0.0)


@every_loss
@every_mask
def test_a_masked_class_leaves_second_derivatives_right(name, mask):
    row = np.array(MASKED[mask])
    with jax.enable_x64(True):
        hessian = jax.hessian(partial(CASES[name][0], labels=jnp.array(0)))
        got, near = hessian(jnp.asarray(row)), hessian(jnp.maximum(row, -1e8))
        np.testing.assert_allclose(got, near, rtol=1e-11, atol=1e-14)


@every_case
def test_second_derivatives_equal_finite_differences_of_the_gradient(name):
    logits, labels = batch(14, size=8, scale=1.0)
    with jax.enable_x64(True):
        total = lambda f: CASES[name][0](f, labels).sum()
        for direction in np.eye(CLASSES):
            gradient = lambda h, d=direction: jax.grad(total)(logits + h * d)
            _, got = jax.jvp(gradient, (0.0,), (1.0,))
            slope = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
            np.testing.assert_allclose(got, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("focusing", [0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("m", [-80.0, 10.0, 30.0, 40.0, 60.0])
def test_the_second_derivative_of_focal_keeps_its_precision(focusing, m):
    second = lambda m: jax.grad(
        jax.grad(
            lambda m: losses.softmax_focal_loss(
                jnp.stack([m, 0.0 * m]), jnp.array(0), focusing=focusing
            )
        )
    )(m)
    with jax.enable_x64(True):
        expected = second(jnp.float64(m))
    np.testing.assert_allclose(second(jnp.float32(m)), expected, rtol=1e-4, atol=1e-37)
    if m > 20:  # p_y -> 1: the loss is exp(-(focusing + 1) m)
        limit = (focusing + 1) ** 2 * math.exp(-(focusing + 1) * m)
        np.testing.assert_allclose(expected, limit, rtol=1e-7)


@pytest.mark.parametrize(
    ("loss", "hyperparameters"),
    [
        (losses.softmax_focal_loss, {"focusing": 0.4}),
        (losses.ldam_loss, {"max_margin": 0.4, "scale": 10.0}),
        (
            losses.symmetric_cross_entropy,
            {"alpha": 0.3, "beta": 0.6, "smallest_probability": 1e-7},
        ),
        (losses.generalized_cross_entropy, {"q": 0.4}),
        (losses.truncated_generalized_cross_entropy, {"q": 0.4, "k": 0.3}),
        (losses.truncated_generalized_cross_entropy, {"q": 0.4, "k": 0.0}),
        (losses.logit_adjusted_cross_entropy, {"tau": 0.7}),
    ],
)
@pytest.mark.parametrize("mask", ["one", "all but the label", "the label"])
def test_a_masked_class_leaves_hyperparameters_a_gradient(loss, hyperparameters, mask):
    if loss in (losses.ldam_loss, losses.logit_adjusted_cross_entropy):
        loss = partial(loss, class_counts=COUNTS)
    row, label = jnp.array(MASKED[mask]), jnp.array(0)
    grads = jax.grad(lambda h: loss(row, label, **h))(hyperparameters)
    near = jax.grad(lambda h: loss(jnp.maximum(row, -1e4), label, **h))(hyperparameters)
    for name, slope in grads.items():
        if (mask, name) not in {("the label", "scale"), ("the label", "alpha")}:
            np.testing.assert_allclose(slope, near[name], rtol=1e-5, err_msg=name)
        assert np.isfinite(slope) or mask == "the label"


@pytest.mark.parametrize("weighted", [False, True])
def test_a_factor_of_zero_removes_an_infinite_loss(weighted):
    row = MASKED["the label"]
    if weighted:
        loss = partial(
            losses.softmax_cross_entropy_with_integer_labels,
            class_weights=[0, 1, 1, 1, 1],
        )
    else:
        loss = partial(
            losses.symmetric_cross_entropy, alpha=0, beta=0, smallest_probability=0
        )
    value, grads = value_and_grad(loss, row)
    assert value == 0.0
    np.testing.assert_array_equal(grads, 0.0)


@every_case
def test_finite_logits_pass_the_checks_of_debug_nans_and_debug_infs(name):
    logits, labels = batch(15, scale=1.0)
    logits *= np.logspace(0, 4, len(logits))[:, None]
    logits = np.clip(logits, -1e4, 1e4).astype(np.float32)
    logits[:3] = [[1e4, -1e4, -1e4, -1e4, -1e4]] * 3
    labels[:3] = [0, 1, 2]
    total = lambda f: CASES[name][0](f, labels, class_weights=WEIGHTS).sum()
    with jax.debug_nans(True), jax.debug_infs(True):
        for function in (total, jax.grad(total)):
            function(logits)
            jax.jit(function)(logits)


@pytest.mark.parametrize(
    "loss",
    [
        partial(losses.truncated_generalized_cross_entropy, k=0.0),
        partial(losses.symmetric_cross_entropy, smallest_probability=0.0),
        partial(losses.softmax_focal_loss, focusing=0.0),
        partial(losses.softmax_focal_loss, focusing=0.5, class_weights=[0.0] * CLASSES),
    ],
)
def test_hyperparameters_at_their_ends_pass_the_checks_too(loss):
    logits, labels = batch(16)
    total = lambda f: loss(f, labels).sum()
    with jax.debug_nans(True), jax.debug_infs(True):
        total(1e3 * logits)
        jax.grad(total)(1e3 * logits)


def test_plus_infinity_is_the_limit_where_the_limit_is_finite():
    for name in ("ce", "focal_0.3", "ldam", "sce", "gce", "logit_adjusted"):
        value, grads = value_and_grad(CASES[name][0], [INF, 0.0, 1.0, -INF, 2.0])
        assert value == 0.0
        np.testing.assert_array_equal(grads, 0.0)
        value, _ = value_and_grad(CASES[name][0], [INF, INF, 1.0, -INF, 2.0])
        assert np.isnan(value)


# --- Invariances, shapes, dtypes, transformations ------------------------------------


@every_case
@settings(max_examples=15, deadline=None)
@given(
    logits=hnp.arrays(np.float64, (4, CLASSES), elements=st.floats(-10, 10)),
    labels=hnp.arrays(np.int32, 4, elements=st.integers(0, CLASSES - 1)),
    offset=st.floats(-1e4, 1e4),
)
def test_adding_a_constant_to_logits_changes_nothing(name, logits, labels, offset):
    # Truncation is a step in p_y, on which an example may fall: hold the flags.
    more = {"keep": np.array([1, 0, 1, 1])} if name.startswith("tce") else {}
    loss = partial(CASES[name][0], **more)
    with jax.enable_x64(True):
        got, expected = loss(logits + offset, labels), loss(logits, labels)
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-8)


def test_a_large_common_offset_costs_cross_entropy_no_precision_in_float32():
    logits = jnp.array([[0.25, 1.5, -3.0]])
    for loss in (
        losses.softmax_cross_entropy_with_integer_labels,
        losses.generalized_cross_entropy,
    ):
        got, expected = (loss(logits + c, jnp.array([0])) for c in (8192.0, 0.0))
        np.testing.assert_array_equal(got, expected)


@every_loss
@pytest.mark.parametrize("shape", [(), (1,), (0,), (64,), (4, 16), (2, 8, 4)])
def test_any_leading_shape(name, shape):
    loss, _, _ = CASES[name]
    logits, labels = (jnp.asarray(a) for a in batch(8))
    size = math.prod(shape)
    got = loss(logits[:size].reshape(*shape, CLASSES), labels[:size].reshape(shape))
    assert got.shape == shape
    expected = loss(logits, labels)[:size]
    np.testing.assert_allclose(got.reshape(-1), expected, rtol=1e-5, atol=1e-7)


@every_loss
def test_jit_and_vmap_change_nothing(name):
    loss, _, _ = CASES[name]
    logits, labels = (jnp.asarray(a) for a in batch(9))
    expected = loss(logits, labels)
    for transformed in (jax.jit(loss), jax.vmap(loss), jax.jit(jax.vmap(loss))):
        np.testing.assert_allclose(
            transformed(logits, labels), expected, rtol=2e-5, atol=1e-6
        )


@every_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_computes_in_float32_or_float64(name, dtype):
    loss, _, _ = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        logits, labels = (jnp.asarray(a) for a in batch(10))
        logits = logits.astype(dtype)
        wide = "float64" if dtype == "float64" else "float32"
        got = loss(logits, labels, class_weights=WEIGHTS)
        assert got.dtype == wide
        expected = loss(logits.astype(wide), labels, class_weights=WEIGHTS)
        np.testing.assert_array_equal(got, expected)


@every_loss
def test_strict_promotion(name):
    logits, labels = (jnp.asarray(a) for a in batch(11))
    logits = logits.astype(jnp.bfloat16)
    weights = jnp.asarray(WEIGHTS, jnp.float16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        CASES[name][0](logits, labels, class_weights=weights)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int32"])
def test_labels_of_any_integer_type_are_not_wrapped_around(dtype):
    logits = jnp.zeros((2, 300)).at[:, 256].set(5.0)  # 256 = 0 in uint8
    got = losses.softmax_cross_entropy_with_integer_labels(
        logits, jnp.array([0, 1], dtype)
    )
    np.testing.assert_allclose(got, math.log(299 + math.exp(5)), rtol=1e-6)


@every_loss
@pytest.mark.parametrize("label", [-100, -1, CLASSES, 10**6])
def test_label_out_of_range_gives_nan_and_no_gradient(name, label):
    loss, _, _ = CASES[name]
    logits, labels = (jnp.asarray(a) for a in batch(12, size=3))
    labels = labels.at[1].set(label)
    function = jax.jit(partial(loss, class_weights=WEIGHTS))
    values, pullback = jax.vjp(lambda f: function(f, labels), logits)
    np.testing.assert_array_equal(jnp.isnan(values), [False, True, False])
    (grads,) = pullback(jnp.ones(3))
    assert jnp.isfinite(grads).all()
    np.testing.assert_array_equal(grads[1], 0.0)
    # Masked out afterwards, the example is gone: no NaN comes back through `where`.
    mask = jnp.array([True, False, True])
    masked = jax.grad(lambda f: jnp.where(mask, function(f, labels), 0.0).sum())
    np.testing.assert_array_equal(masked(logits), grads)


def test_pruning_does_not_hide_a_label_out_of_range():
    loss = losses.truncated_generalized_cross_entropy
    assert jnp.isnan(loss(jnp.zeros(3), jnp.array(3), keep=jnp.array(False)))


@every_loss
def test_nan_logits_are_not_hidden(name):
    logits = jnp.full((2, CLASSES), jnp.nan).at[0].set(0.0)
    values = jax.jit(CASES[name][0])(logits, jnp.array([0, 0]))
    np.testing.assert_array_equal(jnp.isnan(values), [False, True])
    for label in (0, 1):
        masked = jnp.array([jnp.nan, *[-INF] * (CLASSES - 1)])
        assert jnp.isnan(CASES[name][0](masked, jnp.array(label)))


@pytest.mark.parametrize(
    ("loss", "hyperparameters"),
    [
        (losses.softmax_focal_loss, {"focusing": 0.4}),
        (losses.ldam_loss, {"class_counts": COUNTS, "max_margin": 0.4, "scale": 10.0}),
        (losses.symmetric_cross_entropy, {"alpha": 0.3, "beta": 0.6}),
        (losses.symmetric_cross_entropy, {"smallest_probability": 0.0}),
        (losses.generalized_cross_entropy, {"q": 0.4}),
        (losses.truncated_generalized_cross_entropy, {"q": 0.4, "k": 0.3}),
        (losses.logit_adjusted_cross_entropy, {"class_counts": COUNTS, "tau": 0.7}),
        (
            losses.softmax_cross_entropy_with_integer_labels,
            {"class_weights": list(WEIGHTS)},
        ),
    ],
)
def test_traced_hyperparameters(loss, hyperparameters):
    logits, labels = (jnp.asarray(a) for a in batch(13))
    traced = jax.tree.map(
        jnp.asarray, hyperparameters, is_leaf=lambda x: isinstance(x, list)
    )
    got = jax.jit(lambda h: loss(logits, labels, **h))(traced)
    expected = loss(logits, labels, **hyperparameters)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


# --- Class-balanced weights and margins ----------------------------------------------

CIFAR10_LT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
CIFAR10_ST_100 = [5000] * 5 + [50] * 5

# Made independently for beta 0.9999 and a largest margin of 0.5, rounded to six digits.
FIXTURES = {
    "weights_lt": (
        losses.class_balanced_weights,
        CIFAR10_LT_100,
        {0: 0.050611, 1: 0.076900, 4: 0.318805, 7: 1.442627, 9: 3.992724},
    ),
    "weights_st": (
        losses.class_balanced_weights,
        CIFAR10_ST_100,
        {0: 0.025034, 4: 0.025034, 5: 1.974966, 9: 1.974966},
    ),
    "margins_lt": (
        losses.ldam_margins,
        CIFAR10_LT_100,
        {0: 0.158114, 1: 0.179697, 4: 0.263829, 7: 0.387221, 9: 0.5},
    ),
    "margins_st": (
        losses.ldam_margins,
        CIFAR10_ST_100,
        {0: 0.158114, 4: 0.158114, 5: 0.5, 9: 0.5},
    ),
}


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize(
    "container", [list, tuple, np.array, jnp.array, partial(np.array, dtype=np.uint16)]
)
def test_fixtures(name, container):
    function, counts, expected = FIXTURES[name]
    got = function(container(counts))
    assert isinstance(got, jax.Array)
    assert got.dtype == jnp.float32
    for c, value in expected.items():
        assert float(got[c]) == pytest.approx(value, abs=6e-7)
    traced = jax.jit(function)(jnp.asarray(counts))
    np.testing.assert_allclose(traced, got, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(partial(function, counts))(), got, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 0.9999, 1 - 1e-12, 1 - 2**-53])
def test_class_balanced_weights_lose_no_digits(beta):
    # The effective number as the geometric series that it is: no cancellation.
    counts = [1, 2, 7, 50, 400]
    number = np.array([math.fsum(beta**j for j in range(n)) for n in counts])
    expected = (1 / number) * len(counts) / (1 / number).sum()
    weights = losses.class_balanced_weights(counts, beta=beta)
    np.testing.assert_allclose(weights, expected, rtol=2e-7)
    assert float(weights.sum()) == pytest.approx(len(counts), rel=1e-6)
    with jax.enable_x64(True):
        weights = losses.class_balanced_weights(counts, beta=beta)
        assert weights.dtype == jnp.float64
        np.testing.assert_allclose(weights, expected, rtol=1e-13)


def test_class_balanced_weights_of_beta_zero_are_one():
    np.testing.assert_array_equal(losses.class_balanced_weights(COUNTS, 0.0), 1.0)
    traced = jax.jit(lambda beta: losses.class_balanced_weights(COUNTS, beta))
    np.testing.assert_allclose(traced(0.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        traced(0.9), losses.class_balanced_weights(COUNTS, 0.9), rtol=1e-5
    )


# --- Errors --------------------------------------------------------------------------

F, Y = np.zeros((8, CLASSES), np.float32), np.zeros(8, np.int32)


@every_loss
@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (
            F,
            F,
            TypeError,
            r"labels must be integers.*got float32\[8,5\]\. For one-hot labels take "
            r"labels.argmax\(-1\). For soft labels .* optax.softmax_cross_entropy\(",
        ),
        (
            Y,
            F,
            TypeError,
            r"logits come first .*got int32\[8\] for .*float32\[8,5\].*Swap",
        ),
        (Y.astype(np.float32), F, TypeError, r"logits come first and labels second"),
        (F.astype(int), F, TypeError, r"logits come first and labels second"),
        (
            F,
            Y.astype(np.float32),
            TypeError,
            r"labels must be .*got float32\[8\]\. Cast them: labels.astype\(int\)",
        ),
        (F, Y.astype(bool), TypeError, r"labels must be integers.*got bool\[8\]"),
        (F.astype(int), Y, TypeError, r"logits must be floating.*got int32\[8,5\]"),
        (F.astype(bool), Y, TypeError, r"logits must be floating.*got bool\[8,5\]"),
        (F.astype("complex64"), Y, TypeError, r"logits must be floating.*complex64"),
        (
            F,
            F.astype(int),
            ValueError,
            r"without the last axis, \(8,\); got int32\[8,5\] with float32\[8,5\]. For "
            r"one-hot labels take labels.argmax\(-1\)",
        ),
        (F, Y[:7], ValueError, r"\(8,\); got int32\[7\] with float32\[8,5\]"),
        (F, Y[0], ValueError, r"\(8,\); got int32\[\] with float32\[8,5\]"),
        (F[0, 0], Y[0], ValueError, r"at least two classes; got float32\[\]"),
        (F[:, :1], Y, ValueError, r"at least two classes; got float32\[8,1\]"),
    ],
)
def test_refuses_logits_and_labels(name, logits, labels, error, message):
    loss, _, _ = CASES[name]
    with pytest.raises(error, match=message):
        loss(logits, labels)
    with pytest.raises(error, match=message):
        jax.eval_shape(loss, logits, labels)


@every_loss
@pytest.mark.parametrize(
    ("class_weights", "message"),
    [
        ([1.0] * 4, r"class_weights must have shape \(5,\); got shape \(4,\)"),
        (np.ones((5, 1)), r"class_weights must have shape \(5,\); got shape \(5, 1\)"),
        (2.0, r"class_weights must have shape \(5,\); got shape \(\)"),
        ([1, 1, -0.5, 1, 1], r"finite and at least 0; got -0.5 for class 2"),
        ([1, 1, 1, 1, np.inf], r"finite and at least 0; got inf for class 4"),
        ([1, np.nan, 1, 1, 1], r"finite and at least 0; got nan for class 1"),
    ],
)
def test_refuses_class_weights(name, class_weights, message):
    with pytest.raises(ValueError, match=message):
        CASES[name][0](F, Y, class_weights=class_weights)


@pytest.mark.parametrize(
    ("class_weights", "message"),
    [
        (
            "balanced",
            r"must be numbers, one per class; got 'balanced'. class_balanced_weights\(",
        ),
        (["1"] * 5, r"class_weights must be numbers, one per class; got \['1'"),
        (
            [[1.0], [1.0, 2.0]],
            r"class_weights must be numbers, one per class; got \[\[",
        ),
        (dict.fromkeys(range(5), 1.0), r"got a dict.*\[class_weights\[c\] for c in "),
    ],
)
def test_refuses_class_weights_that_are_not_a_vector_of_numbers(class_weights, message):
    with pytest.raises(TypeError, match=message):
        losses.softmax_cross_entropy_with_integer_labels(
            F, Y, class_weights=class_weights
        )


takes_counts = pytest.mark.parametrize(
    "function",
    [
        lambda counts: losses.ldam_loss(F, Y, class_counts=counts),
        lambda counts: losses.logit_adjusted_cross_entropy(F, Y, class_counts=counts),
        losses.class_balanced_weights,
        losses.ldam_margins,
    ],
    ids=["ldam", "logit_adjusted", "class_balanced_weights", "ldam_margins"],
)


@takes_counts
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            [5, 4, 0, 2, 1],
            r"at least 1; got 0 for class 2. A class without a training example has "
            r"no margin, weight or prior: leave it out .*numpy.maximum\(class_counts, ",
        ),
        ([5, 4, 3, 2, -1], r"class_counts must be .* at least 1; got -1 for class 4$"),
        (
            [0.2] * 5,
            r"at least 1; got 0.2 for class 0. Give numbers of examples, not shares$",
        ),
        ([5, np.nan, 3, 2, 1], r"class_counts must be finite .* got nan for class 1"),
        (7, r"class_counts must have .*; got shape \(\)"),
        (np.ones((5, 2)), r"class_counts must have .*; got shape \(5, 2\)"),
        ([], r"class_counts must have .*; got shape \(0,\)"),
    ],
)
def test_refuses_class_counts(function, counts, message):
    with pytest.raises(ValueError, match=message):
        function(counts)


@takes_counts
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            collections.Counter(a=5, b=4),
            r"one value per class in the order of the labels; got a Counter. "
            r"Make one: \[class_counts\[c\] for c in range\((5|classes)\)\]$",
        ),
        ({0: 5, 1: 4}, r"class_counts must be a vector.*got a dict"),
        ("balanced", r"must be numbers, one per class; got 'balanced'.*bincount"),
        ("5", r"class_counts must be numbers, one per class; got '5'"),
        (None, r"class_counts must be numbers, one per class; got None"),
    ],
)
def test_refuses_class_counts_that_are_not_a_vector(function, counts, message):
    with pytest.raises(TypeError, match=message):
        function(counts)


@pytest.mark.parametrize("value", ["1", None, [], (lambda step: 0.7), 1j])
def test_refuses_hyperparameters_that_are_not_numbers(value):
    for name, function in (
        ("focusing", losses.softmax_focal_loss),
        ("alpha", losses.symmetric_cross_entropy),
        ("q", losses.generalized_cross_entropy),
    ):
        message = rf"{name} must be a (number in .0, .*; got|scalar; got shape)"
        with pytest.raises((TypeError, ValueError), match=message):
            function(F, Y, **{name: value})


@pytest.mark.parametrize(
    "loss", [losses.ldam_loss, losses.logit_adjusted_cross_entropy]
)
def test_refuses_another_number_of_class_counts(loss):
    message = (
        r"class_counts must have shape \(5,\); got shape \(3,\)\. "
        r"Count with numpy.bincount\(labels, minlength=5\)"
    )
    with pytest.raises(ValueError, match=message):
        loss(F, Y, class_counts=[3, 2, 1])
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda n: loss(F, Y, class_counts=n))(jnp.ones(3))


def test_refuses_flags_of_another_shape():
    with pytest.raises(ValueError, match=r"shape of labels, \(8,\); got \(7,\)"):
        losses.truncated_generalized_cross_entropy(F, Y, keep=np.ones(7))


@pytest.mark.parametrize(
    ("loss", "name", "interval", "refused"),
    [
        (losses.softmax_focal_loss, "focusing", "[0, inf)", [-1, math.inf]),
        (losses.ldam_loss, "max_margin", "[0, inf)", [-0.1, math.inf]),
        (losses.ldam_loss, "scale", "(0, inf)", [0.0, -30, math.inf]),
        (losses.symmetric_cross_entropy, "alpha", "[0, inf)", [-0.1, math.inf]),
        (losses.symmetric_cross_entropy, "beta", "[0, inf)", [-0.1, math.inf]),
        (losses.symmetric_cross_entropy, "smallest_probability", "[0, 1)", [-1e-7, 1]),
        (losses.generalized_cross_entropy, "q", "(0, 1]", [0.0, -0.7, 1.1]),
        (losses.truncated_generalized_cross_entropy, "q", "(0, 1]", [0, -0.7, 1.1]),
        (losses.truncated_generalized_cross_entropy, "k", "[0, 1)", [-0.1, 1.0]),
        (losses.logit_adjusted_cross_entropy, "tau", "[0, inf)", [-1.0, math.inf]),
        (losses.class_balanced_weights, "beta", "[0, 1)", [-0.1, 1.0, 1.1]),
        (losses.ldam_margins, "max_margin", "[0, inf)", [-0.1, math.inf]),
    ],
)
def test_refuses_hyperparameters(loss, name, interval, refused):
    if loss in (losses.class_balanced_weights, losses.ldam_margins):
        function = partial(loss, COUNTS)
    elif loss in (losses.ldam_loss, losses.logit_adjusted_cross_entropy):
        function = partial(loss, F, Y, class_counts=COUNTS)
    else:
        function = partial(loss, F, Y)
    for value in [*refused, math.nan]:
        with pytest.raises(ValueError) as error:  # noqa: PT011, quoted in full below
            function(**{name: value})
        assert str(error.value) == f"{name} must lie in {interval}; got {value}"
    with pytest.raises(ValueError, match=rf"{name} must be a scalar; got shape \(2,\)"):
        function(**{name: np.ones(2)})


@every_loss
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_equal_logits_of_any_size_are_equal_probabilities_as_programs_run(name, size):
    """The optimizing compiler rounds a fused product once, where it is stored twice."""
    compiled = jax.jit(partial(value_and_grad, CASES[name][0])).lower(
        jnp.zeros(CLASSES)
    )
    optimized = compiled.compile({"xla_backend_optimization_level": 3})
    for expected, found in zip(
        optimized(jnp.zeros(CLASSES)), optimized(jnp.full(CLASSES, size)), strict=True
    ):
        assert np.isfinite(found).all()
        if name != "logit_adjusted":  # which adds to the logits what rounding takes
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
