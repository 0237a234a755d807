"""Per-example losses against NumPy float64 transcriptions of their formulas."""

import collections
import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from absgd_jax import losses

# fmt: off
CE, FOCAL, LDAM, SCE, GCE, TCE, ADJUSTED = (
    losses.softmax_cross_entropy_with_integer_labels, losses.softmax_focal_loss,
    losses.ldam_loss, losses.symmetric_cross_entropy, losses.generalized_cross_entropy,
    losses.truncated_generalized_cross_entropy, losses.logit_adjusted_cross_entropy,
)
# fmt: on
COUNTS = [500, 100, 40, 9, 2]
CLASSES = len(COUNTS)
WEIGHTS = np.array([0.2, 0.5, 1.0, 1.3, 2.0])

# --- The formulas as the papers write them: f is [batch, classes], y is [batch] ------


def p_of(f, y):
    return special.softmax(f, axis=-1)[np.arange(len(y)), y]


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
    p = special.softmax(f, axis=-1)
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

# name: (function, its hyperparameters, formula, |d loss / d f_y| as p_y -> 0)
# fmt: off
TABLE = {
    "ce": (CE, {}, ce, 1),
    "focal": (FOCAL, {}, partial(focal, g=1.0), 1),
    "focal_0.3": (FOCAL, {"focusing": 0.3}, partial(focal, g=0.3), 1),
    "focal_2": (FOCAL, {"focusing": 2}, partial(focal, g=2), 1),
    "ldam": (LDAM, {"class_counts": COUNTS}, partial(ldam, s=30, max_margin=0.5), 30),
    "ldam_3": (LDAM, {"class_counts": COUNTS, "scale": 3, "max_margin": 0.3},
               partial(ldam, s=3, max_margin=0.3), 3),
    "sce": (SCE, {}, partial(sce, a=0.1, b=1.0), 0),
    "sce_cifar100": (SCE, {"alpha": 6, "beta": 0.1}, partial(sce, a=6, b=0.1), 0),
    "sce_unclipped": (SCE, {"smallest_probability": 0},
                      partial(sce, a=0.1, b=1.0, smallest=0), 0.1),
    "gce": (GCE, {}, partial(gce, q=0.7), 0),
    "gce_1": (GCE, {"q": 1}, partial(gce, q=1), 0),
    "tce": (TCE, {}, partial(tce, q=0.7, k=0.5), 0),
    "tce_0": (TCE, {"k": 0.0}, partial(tce, q=0.7, k=0.0), 0),
    "tce_0.2": (TCE, {"q": 0.4, "k": 0.2}, partial(tce, q=0.4, k=0.2), 0),
    "logit_adjusted": (ADJUSTED, {"class_counts": COUNTS},
                       partial(logit_adjusted, tau=1.0), 1),
    "logit_adjusted_1.5": (ADJUSTED, {"class_counts": COUNTS, "tau": 1.5},
                           partial(logit_adjusted, tau=1.5), 1),
}
# fmt: on
CASES = {
    name: (partial(loss, **hyperparameters), formula, slope)
    for name, (loss, hyperparameters, formula, slope) in TABLE.items()
}
every_case = pytest.mark.parametrize("name", CASES)
LOSSES = ["ce", "focal_0.3", "ldam", "sce", "gce", "tce", "logit_adjusted"]
every_loss = pytest.mark.parametrize("name", LOSSES)
# What all losses share is tried on those that go about it in ways of their own.
some_losses = pytest.mark.parametrize("name", ["ce", "ldam", "tce"])
# By dtype, and whether with class weights. Compiling is what takes the time, and nearly
# all that differs between losses is in one of these.
PROGRAMS = {
    ("float64", False): list(CASES),
    ("float32", True): list(CASES),
    ("float32", False): LOSSES,
    ("float64", True): ["ce", "focal_0.3"],
    ("bfloat16", False): LOSSES,
    ("bfloat16", True): ["ce", "focal_0.3"],
    ("float16", False): ["ce", "focal_0.3", "ldam"],
}


def programs(*dtypes, names=CASES):
    """Every name, dtype and choice of class weights among those."""
    return pytest.mark.parametrize(
        ("name", "dtype", "weighted"),
        [
            (name, dtype, weighted)
            for (dtype, weighted), compiled_for in PROGRAMS.items()
            for name in compiled_for
            if dtype in dtypes and name in names
        ],
    )


def batch(seed=0, size=64, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((size, CLASSES))
    return logits, rng.integers(CLASSES, size=size)


@functools.cache
def compiled(loss):
    """Losses and their gradients `[rows, classes]`; compiled once a dtype."""

    def values_and_gradients(logits, labels, class_weights):
        values, pullback = jax.vjp(
            lambda f: loss(f, labels, class_weights=class_weights), logits
        )
        return values, *pullback(jnp.ones_like(values))

    return jax.jit(values_and_gradients)


def evaluate(loss, logits, labels, class_weights=None, dtype="float32"):
    """Losses and gradients of any number of rows, of which 256 at a time."""
    logits = np.atleast_2d(np.asarray(logits, np.float64))
    labels = np.broadcast_to(labels, len(logits))
    padding, parts = -len(labels) % 256, []
    chunks = (
        np.pad(logits, [(0, padding), (0, 0)]).reshape(-1, 256, CLASSES),
        np.pad(labels, (0, padding)).reshape(-1, 256),
    )
    with jax.enable_x64(dtype == "float64"):
        if class_weights is not None:
            class_weights = jnp.asarray(class_weights, float)
        for f, y in zip(*chunks, strict=True):
            part = compiled(loss)(f.astype(jnp.dtype(dtype)), y, class_weights)
            parts.append(jax.device_get(part))
    values, grads = map(np.concatenate, zip(*parts, strict=True))
    return values[: len(labels)], grads[: len(labels)]


evaluate64 = partial(evaluate, dtype="float64")

# --- Values --------------------------------------------------------------------------


@programs("float32", "float64")
def test_equals_the_formula(name, dtype, weighted):
    """Class weights multiply the loss of their class."""
    loss, formula, _ = CASES[name]
    logits, labels = batch()
    expected = formula(logits, labels)
    if weighted:
        expected = WEIGHTS[labels] * expected
        if name.startswith("focal"):  # inside the modulating factor as well
            g = {"focal": 1.0, "focal_0.3": 0.3, "focal_2": 2}[name]
            expected = class_balanced_focal(logits, labels, g, WEIGHTS)
    got, _ = evaluate(loss, logits, labels, WEIGHTS if weighted else None, dtype)
    rtol, atol = (5e-5, 5e-6) if dtype == "float32" else (1e-11, 1e-13)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def test_truncation_follows_the_flags_it_is_given():
    """And a pruned example has no gradient."""
    logits, labels = batch(2)
    expected = tce(logits, labels, 0.7, 0.5, KEEP)
    for dtype in (bool, np.int32, np.float32):
        got = TCE(logits, labels, keep=KEEP.astype(dtype))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    total = lambda f: TCE(f, labels, keep=KEEP).sum()
    grads = jax.jit(jax.grad(total))(jnp.float32(logits))
    np.testing.assert_array_equal(jnp.any(grads != 0, axis=-1), KEEP)


def test_symmetric_cross_entropy_clips_where_it_is_told_also_if_traced():
    logits, labels = batch(17, scale=8.0)
    sce_of = partial(SCE, alpha=2.0)

    @jax.jit
    def traced(logits, p):
        loss = lambda f: sce_of(f, labels, smallest_probability=p)
        values, pullback = jax.vjp(loss, logits)
        return values, *pullback(jnp.ones_like(values))

    _, unclipped = evaluate64(partial(sce_of, smallest_probability=0.0), logits, labels)
    reverse_alone = partial(SCE, alpha=0.0)
    _, reverse = evaluate64(reverse_alone, logits, labels)
    for smallest in (0.0, 1e-7, 1e-3, 0.5):
        clipped = p_of(logits, labels) < smallest
        assert smallest == 0.0 or 0 < clipped.sum() < len(labels)
        expected = sce(logits, labels, 2.0, 1.0, smallest)
        slopes = np.where(clipped[:, None], reverse, unclipped)
        static = partial(sce_of, smallest_probability=smallest)
        with jax.enable_x64(True):
            for got, grads in (
                evaluate64(static, logits, labels),
                traced(jnp.asarray(logits), smallest),
            ):
                np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)
                np.testing.assert_allclose(grads, slopes, rtol=1e-12)


# --- Limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rtol"),
    [
        (partial(FOCAL, focusing=0.0), 0),
        (partial(GCE, q=1e-9), 1e-6),
        (partial(SCE, alpha=1.0, beta=0.0), 0),
        (partial(LDAM, class_counts=COUNTS, max_margin=0.0, scale=1.0), 0),
        (partial(LDAM, class_counts=[7] * 5, max_margin=0.0, scale=1), 0),
        (partial(ADJUSTED, class_counts=COUNTS, tau=0.0), 0),
        (partial(ADJUSTED, class_counts=[7] * 5), 2e-5),
        (partial(CE, class_weights=losses.class_balanced_weights(COUNTS, beta=0)), 0),
        (partial(TCE, q=1e-9, keep=np.ones(64)), 1e-6),
    ],
)
def test_limits_are_cross_entropy(loss, rtol):
    logits, labels = batch(5)
    logits = jnp.asarray(logits, jnp.float32)
    expected = CE(logits, labels)
    np.testing.assert_allclose(loss(logits, labels), expected, rtol=rtol)


# --- Gradients -----------------------------------------------------------------------


@programs("float64")
def test_gradient_equals_finite_differences(name, dtype, weighted):
    logits, labels = batch(6, size=8, scale=1.0)
    class_weights = WEIGHTS if weighted else None
    of = lambda f: evaluate(CASES[name][0], f, labels, class_weights, dtype)
    h = 1e-5
    for c in range(CLASSES):
        step = h * np.eye(CLASSES)[c]
        slope = (of(logits + step)[0] - of(logits - step)[0]) / (2 * h)
        np.testing.assert_allclose(of(logits)[1][:, c], slope, rtol=1e-6, atol=1e-7)


@programs("float32", "bfloat16", "float16")
def test_value_and_gradient_are_right_at_the_extremes(name, dtype, weighted):
    high = 1e4
    logits = [
        [high, -high, -high, -high, -high],  # certain and right
        [-high, -high, high, -high, -high],  # certain and wrong
        [0, 0, 0, 0, high],
    ]
    labels = np.array([0, 1, 3])
    loss, _, slope = CASES[name]
    values, grads = evaluate(loss, logits, labels, WEIGHTS if weighted else None, dtype)
    assert values.dtype == jnp.float32
    assert grads.dtype == jnp.dtype(dtype)
    assert jnp.isfinite(values).all()
    assert values[0] == 0 or name.startswith("tce")
    expected = slope * np.array([[0] * 5, [0, -1, 1, 0, 0], [0, 0, 0, -1, 1]])
    if weighted:
        expected = expected * WEIGHTS[labels][:, None]
    np.testing.assert_allclose(
        grads.astype(jnp.float32), expected, rtol=float(jnp.finfo(dtype).eps)
    )


def test_float32_keeps_its_relative_precision_in_the_tails():
    """Naive forms give 0 or NaN where `1 - p_y` is below 6e-8."""
    m = np.array([-80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 30.0, 80.0])
    logits = np.full((len(m), CLASSES), -INF)
    logits[:, 0], logits[:, 1] = m, 0.0
    p, rest = 1 / (1 + np.exp(-m)), 1 / (1 + np.exp(m))
    ce = np.log1p(np.exp(-m))
    focal = rest**0.3 * ce
    for loss, value, slope in [
        (CASES["ce"][0], ce, -rest),
        (CASES["focal_0.3"][0], focal, -(rest**1.3) - 0.3 * p * focal),
        (CASES["gce"][0], -np.expm1(-0.7 * ce) / 0.7, -rest * p**0.7),
        (partial(SCE, alpha=0.0), math.log(1e4) * rest, -math.log(1e4) * p * rest),
    ]:
        values, grads = evaluate(loss, logits, 0)
        np.testing.assert_allclose(values, value, rtol=1e-5, atol=1e-37)
        slopes = np.pad(np.stack([slope, -slope], axis=1), [(0, 0), (0, 3)])
        np.testing.assert_allclose(grads, slopes, rtol=2e-5, atol=1e-37)


def test_gradient_reaches_traced_class_weights():
    logits, labels = batch(7)
    total = lambda w: CE(logits, labels, class_weights=w).sum()
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
ROWS = np.array(list(MASKED.values()))


@programs("float64", names=LOSSES)
def test_a_masked_class_is_the_limit_of_an_ever_smaller_logit(name, dtype, weighted):
    """Without another class than the label there is nothing to be learnt."""
    class_weights = WEIGHTS if weighted else None
    of = lambda rows: evaluate(CASES[name][0], rows, 0, class_weights, dtype)
    (values, grads), (near, near_grads) = of(ROWS), of(np.maximum(ROWS, -1e8))
    alone = list(MASKED).index("all but the label")
    assert values[alone] == np.abs(grads[alone]).max() == 0.0
    expected = np.where(near > 1e5, INF, near)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_allclose(grads, near_grads, rtol=1e-12)


@every_loss
def test_the_finite_mask_of_a_dtype_does_what_minus_infinity_does(name):
    values, grads = evaluate(CASES[name][0], ROWS, 0)
    finite = np.isfinite(values)
    for dtype in ("float32", "bfloat16", "float16"):
        least = float(jnp.finfo(dtype).min)
        near, near_grads = evaluate(CASES[name][0], np.maximum(ROWS, least), 0)
        np.testing.assert_allclose(near_grads, grads, rtol=1e-6)
        np.testing.assert_allclose(near[finite], values[finite], rtol=1e-6)
        assert (near[~finite] > 5e4).all()


@every_loss
def test_a_finite_loss_has_a_finite_gradient(name):
    rng = np.random.default_rng(0)
    edges = [-INF, -1e36, -1e4, -90.0, -1.0, 0.0, 2.0, 90.0, 1e4, 1e36, INF]
    # A third of the rows without +inf and one without -inf, of which few would be.
    some = edges, edges[:-1], edges[1:-1]
    rows = np.concatenate([rng.choice(values, (1024, CLASSES)) for values in some])
    labels = rng.integers(CLASSES, size=len(rows))
    for weight in (0.0, 1e-3, 1.0):
        values, grads = evaluate(CASES[name][0], rows, labels, [weight] * CLASSES)
        values, finite = np.asarray(values), np.isfinite(grads).all(axis=-1)
        assert finite[np.isfinite(values)].all()
        sound = ~np.isposinf(rows).any(axis=-1) & ~np.isneginf(rows).all(axis=-1)
        assert not np.isnan(values[sound]).any()
        assert finite[sound].all()
        if weight == 0.0:  # which removes an infinite loss, too
            np.testing.assert_array_equal(np.nan_to_num(values, nan=0.0), 0.0)
            np.testing.assert_array_equal(grads[sound], 0.0)


@functools.cache
def compiled_hessians(loss):
    return jax.jit(jax.vmap(jax.hessian(loss)))


def hessians(loss, logits, labels):
    """`[rows, classes, classes]` of at most eight rows."""
    rows = np.resize(logits, (8, CLASSES))
    with jax.enable_x64(True):
        found = compiled_hessians(loss)(jnp.asarray(rows), np.resize(labels, 8))
    return np.asarray(found)[: len(logits)]


@every_loss
def test_a_masked_class_leaves_second_derivatives_right(name):
    got = hessians(CASES[name][0], ROWS, 0)
    near = hessians(CASES[name][0], np.maximum(ROWS, -1e8), 0)
    np.testing.assert_allclose(got, near, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", [*LOSSES, "sce_unclipped", "tce_0"])
def test_second_derivatives_equal_finite_differences_of_the_gradient(name):
    logits, labels = batch(14, size=8, scale=1.0)
    got = hessians(CASES[name][0], logits, labels)
    for c, direction in enumerate(np.eye(CLASSES)):
        ahead, behind = (
            evaluate64(CASES[name][0], logits + h * direction, labels)[1]
            for h in (1e-5, -1e-5)
        )
        slope = (ahead - behind) / 2e-5
        np.testing.assert_allclose(got[:, c], slope, rtol=1e-5, atol=1e-7)


def test_the_second_derivative_of_focal_keeps_its_precision():
    m, focusing = np.array(
        [(m, g) for m in (-80, 10, 30, 40, 60) for g in (0.3, 1.0, 1.7, 2.0)], float
    ).T
    value = lambda m, g: FOCAL(jnp.stack([m, 0.0 * m]), jnp.array(0), focusing=g)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(value))))
    with jax.enable_x64(True):
        expected = np.asarray(second(jnp.asarray(m), jnp.asarray(focusing)))
    got = second(jnp.asarray(m, jnp.float32), jnp.asarray(focusing, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-37)
    # p_y -> 1: the loss is exp(-(focusing + 1) m).
    limit = (focusing + 1) ** 2 * np.exp(-(focusing + 1) * m)
    np.testing.assert_allclose(expected[m > 20], limit[m > 20], rtol=1e-7)


HYPERPARAMETERS = [
    (FOCAL, {"focusing": 0.4}),
    (LDAM, {"max_margin": 0.4, "scale": 10.0}),
    (SCE, {"alpha": 0.3, "beta": 0.6, "smallest_probability": 1e-7}),
    (SCE, {"alpha": 0.3, "beta": 0.6, "smallest_probability": 0.0}),
    (GCE, {"q": 0.4}),
    (TCE, {"q": 0.4, "k": 0.3}),
    (TCE, {"q": 0.4, "k": 0.0}),
    (ADJUSTED, {"tau": 0.7}),
]


def counted(loss):
    """The class counts, for a loss that needs them."""
    return {"class_counts": COUNTS} if loss in (LDAM, ADJUSTED) else {}


@pytest.mark.parametrize(("loss", "hyperparameters"), HYPERPARAMETERS)
def test_a_masked_class_leaves_hyperparameters_a_gradient(loss, hyperparameters):
    loss = partial(loss, **counted(loss))
    masks = ["one", "all but the label", "the label"]
    rows = jnp.array([MASKED[mask] for mask in masks])
    value = lambda h, row: loss(row, jnp.array(0), **h)
    slopes = jax.jit(jax.vmap(jax.grad(value), (None, 0)))
    grads = slopes(hyperparameters, rows)
    near = slopes(hyperparameters, jnp.maximum(rows, -1e4))
    for i, mask in enumerate(masks):
        for name, slope in grads.items():
            if (mask, name) not in {("the label", "scale"), ("the label", "alpha")}:
                np.testing.assert_allclose(
                    slope[i], near[name][i], rtol=1e-5, err_msg=f"{mask}, {name}"
                )
            assert np.isfinite(slope[i]) or mask == "the label"


def test_factors_of_zero_remove_an_infinite_loss():
    loss = partial(SCE, alpha=0, beta=0, smallest_probability=0)
    value, grads = evaluate(loss, MASKED["the label"], 0)
    assert value == 0.0
    np.testing.assert_array_equal(grads, 0.0)


AT_THEIR_ENDS = {
    "tce, k": partial(TCE, k=0.0),
    "sce, unclipped": partial(SCE, smallest_probability=0.0),
    "focal, focusing": partial(FOCAL, focusing=0.0),
    "focal, class weights": partial(FOCAL, focusing=0.5, class_weights=[0.0] * CLASSES),
}


@pytest.mark.parametrize("name", [*CASES, *AT_THEIR_ENDS])
def test_finite_logits_pass_the_checks_of_debug_nans_and_debug_infs(name):
    logits, labels = batch(15, scale=1.0)
    logits *= np.logspace(0, 4, len(logits))[:, None]
    logits = np.clip(logits, -1e4, 1e4).astype(np.float32)
    logits[:3] = [[1e4, -1e4, -1e4, -1e4, -1e4]] * 3
    labels[:3] = [0, 1, 2]
    loss = AT_THEIR_ENDS.get(name) or partial(CASES[name][0], class_weights=WEIGHTS)
    total = lambda f: loss(f, labels).sum()
    with jax.debug_nans(True), jax.debug_infs(True):
        total(logits)
        jax.grad(total)(logits)


def test_plus_infinity_is_the_limit_where_the_limit_is_finite():
    rows = [[INF, 0.0, 1.0, -INF, 2.0], [INF, INF, 1.0, -INF, 2.0]]
    for name in ("ce", "focal_0.3", "ldam", "sce", "gce", "logit_adjusted"):
        (one, two), grads = evaluate(CASES[name][0], rows, 0)
        assert one == 0.0
        np.testing.assert_array_equal(grads[0], 0.0)
        assert np.isnan(two)


# --- Invariances, shapes, dtypes, transformations ------------------------------------


@every_case
def test_adding_a_constant_to_logits_changes_nothing(name):
    logits, labels = batch(18, size=256, scale=5.0)
    expected, *shifted = (
        evaluate64(CASES[name][0], logits + c, labels)[0] for c in (0, 1e4, -1e4, 3.7)
    )
    for got in shifted:
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["ce", "gce"])
def test_a_large_common_offset_costs_no_precision_in_float32(name):
    logits = np.array([0.25, 1.5, -3.0, -INF, -INF])
    got, expected = (evaluate(CASES[name][0], logits + c, 0)[0] for c in (8192.0, 0.0))
    np.testing.assert_array_equal(got, expected)


@some_losses
def test_leading_shapes_jit_and_vmap_change_nothing(name):
    loss, _, _ = CASES[name]
    logits, labels = (jnp.asarray(a) for a in batch(8))
    expected = loss(logits, labels)
    shapes = (), (1,), (0,), (64,), (4, 16), (2, 8, 4)

    def leading(shape):
        n = math.prod(shape)
        return loss(logits[:n].reshape(*shape, CLASSES), labels[:n].reshape(shape))

    shaped, mapped = jax.jit(
        lambda: (list(map(leading, shapes)), jax.vmap(loss)(logits, labels))
    )()
    assert tuple(got.shape for got in shaped) == shapes
    for got in (*shaped, mapped):
        np.testing.assert_allclose(
            got.reshape(-1), expected[: got.size], rtol=2e-5, atol=1e-6
        )


@some_losses
def test_computes_in_float32_or_float64(name):
    """As if logits of half precision had been widened before."""
    loss = partial(CASES[name][0], class_weights=WEIGHTS)

    @jax.jit
    def given_and_widened(logits, labels):
        narrow = [logits.astype(t) for t in ("bfloat16", "float16", "float64")]
        wide = [
            f.astype("float64" if f.dtype == "float64" else "float32") for f in narrow
        ]
        return [
            (loss(f, labels), loss(g, labels))
            for f, g in zip(narrow, wide, strict=True)
        ]

    with jax.enable_x64(True):
        logits, labels = batch(10)
        found = given_and_widened(logits, labels)
        assert [got.dtype for got, _ in found] == ["float32", "float32", "float64"]
        for got, expected in found:
            np.testing.assert_array_equal(got, expected)


@every_loss
def test_no_dtype_or_rank_is_promoted_implicitly(name):
    logits, labels = (jnp.asarray(a) for a in batch(11))
    logits = logits.astype(jnp.bfloat16)
    weights = jnp.asarray(WEIGHTS, jnp.float16)
    loss = partial(CASES[name][0], class_weights=weights)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (labels.dtype, jnp.uint8):
            jax.eval_shape(loss, logits, labels.astype(dtype))


def test_labels_of_any_integer_type_are_not_wrapped_around():
    logits = jnp.zeros((2, 300)).at[:, 256].set(5.0)  # 256 = 0 in uint8
    of = jax.jit(CE)
    for dtype in ("int8", "uint8", "int16", "uint32", "int32"):
        got = of(logits, np.array([0, 1], dtype))
        np.testing.assert_allclose(got, math.log(299 + math.exp(5)), rtol=1e-6)


@pytest.mark.parametrize("name", ["ce", "focal_0.3", "ldam", "tce"])
def test_an_example_without_a_right_label_has_a_loss_of_nan_and_no_gradient(name):
    """A label out of range, or every class masked."""
    logits, labels = batch(12, size=7)
    logits[6] = -INF
    labels[:4] = -100, -1, CLASSES, 10**6
    right = np.array([False] * 4 + [True, True, False])
    loss = partial(CASES[name][0], labels=jnp.asarray(labels), class_weights=WEIGHTS)

    @jax.jit
    def derivatives(logits):
        values, pullback = jax.vjp(loss, logits)
        _, tangents = jax.jvp(loss, (logits,), (jnp.ones_like(logits),))
        masked = jax.grad(lambda f: jnp.where(right, loss(f), 0.0).sum())(logits)
        return values, *pullback(jnp.ones_like(values)), masked, tangents

    values, grads, masked, tangents = derivatives(jnp.asarray(logits, jnp.float32))
    np.testing.assert_array_equal(jnp.isnan(values), ~right)
    np.testing.assert_array_equal(grads[~right], 0.0)
    assert jnp.isfinite(grads).all()
    assert jnp.isfinite(tangents[6])
    # Masked out afterwards, the example is gone: no NaN comes back through `where`.
    np.testing.assert_array_equal(masked, grads)


def test_pruning_does_not_hide_a_label_out_of_range():
    loss = jax.jit(TCE)
    assert jnp.isnan(loss(jnp.zeros(3), jnp.array(3), keep=jnp.array(False)))


@every_loss
def test_nan_logits_are_not_hidden(name):
    masked = [np.nan] + [-INF] * (CLASSES - 1)
    rows = [[0.0] * CLASSES, [np.nan] * CLASSES, masked, masked]
    values, _ = evaluate(CASES[name][0], rows, [0, 0, 0, 1])
    np.testing.assert_array_equal(jnp.isnan(values), [False, True, True, True])


@pytest.mark.parametrize(
    ("loss", "hyperparameters"),
    [
        *HYPERPARAMETERS,
        (SCE, {"smallest_probability": 0.0}),
        (CE, {"class_weights": list(WEIGHTS)}),
    ],
)
def test_traced_hyperparameters_give_the_losses_of_static_ones(loss, hyperparameters):
    hyperparameters = hyperparameters | counted(loss)
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
@pytest.mark.parametrize(
    ("function", "counts", "expected"),
    [
        (losses.class_balanced_weights, CIFAR10_LT_100,
         {0: 0.050611, 1: 0.076900, 4: 0.318805, 7: 1.442627, 9: 3.992724}),
        (losses.class_balanced_weights, CIFAR10_ST_100,
         {0: 0.025034, 4: 0.025034, 5: 1.974966, 9: 1.974966}),
        (losses.ldam_margins, CIFAR10_LT_100,
         {0: 0.158114, 1: 0.179697, 4: 0.263829, 7: 0.387221, 9: 0.5}),
        (losses.ldam_margins, CIFAR10_ST_100,
         {0: 0.158114, 4: 0.158114, 5: 0.5, 9: 0.5}),
    ],
    ids=["weights_lt", "weights_st", "margins_lt", "margins_st"],
)  # fmt: skip
def test_class_weights_and_margins_of_long_tailed_and_step_imbalanced_cifar10(
    function, counts, expected
):
    for container in (list, tuple, np.array, jnp.array, partial(np.array, dtype="u2")):
        got = function(container(counts))
        assert isinstance(got, jax.Array)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(
            got[np.array([*expected])], [*expected.values()], rtol=0, atol=6e-7
        )
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
        (F, F, TypeError, r"labels must be integers.*got float32\[8,5\]\. For one-hot "
         r"labels take labels.argmax\(-1\). For soft .* optax.softmax_cross_entropy\("),
        (Y, F, TypeError, r"logits come first .*got int32\[8\] for .*\[8,5\].*Swap"),
        (Y.astype(np.float32), F, TypeError, r"logits come first and labels second"),
        (F.astype(int), F, TypeError, r"logits come first and labels second"),
        (F, Y.astype(np.float32), TypeError,
         r"labels must be .*got float32\[8\]\. Cast them: labels.astype\(int\)"),
        (F, Y.astype(bool), TypeError, r"labels must be integers.*got bool\[8\]"),
        (F.astype(int), Y, TypeError, r"logits must be floating.*got int32\[8,5\]"),
        (F.astype(bool), Y, TypeError, r"logits must be floating.*got bool\[8,5\]"),
        (F.astype("complex64"), Y, TypeError, r"logits must be floating.*complex64"),
        (F, F.astype(int), ValueError, r"without the last axis, \(8,\); got int32\[8,5"
         r"\] with float32\[8,5\]. For one-hot labels take labels.argmax\(-1\)"),
        (F, Y[:7], ValueError, r"\(8,\); got int32\[7\] with float32\[8,5\]"),
        (F, Y[0], ValueError, r"\(8,\); got int32\[\] with float32\[8,5\]"),
        (F[0, 0], Y[0], ValueError, r"at least two classes; got float32\[\]"),
        (F[:, :1], Y, ValueError, r"at least two classes; got float32\[8,1\]"),
    ],
)  # fmt: skip
def test_refuses_logits_and_labels(name, logits, labels, error, message):
    loss, _, _ = CASES[name]
    with pytest.raises(error, match=message):
        loss(logits, labels)
    with pytest.raises(error, match=message):
        jax.eval_shape(loss, logits, labels)


@every_loss
@pytest.mark.parametrize(
    ("class_weights", "error", "message"),
    [
        ([1.0] * 4, ValueError, r"must have shape \(5,\); got shape \(4,\)"),
        (np.ones((5, 1)), ValueError, r"must have shape \(5,\); got shape \(5, 1\)"),
        (2.0, ValueError, r"must have shape \(5,\); got shape \(\)"),
        ([1, 1, -0.5, 1, 1], ValueError, r"finite .* at least 0; got -0.5 for class 2"),
        ([1, 1, 1, 1, np.inf], ValueError, r"and at least 0; got inf for class 4"),
        ([1, np.nan, 1, 1, 1], ValueError, r"and at least 0; got nan for class 1"),
        ("balanced", TypeError, r"per class; got 'balanced'. class_balanced_weights\("),
        (["1"] * 5, TypeError, r"must be numbers, one per class; got \['1'"),
        ([[1.0], [1.0, 2.0]], TypeError, r"must be numbers, one per .*; got \[\["),
        (dict.fromkeys(range(5), 1.0), TypeError,
         r"got a dict.*\[class_weights\[c\] for c in "),
    ],
)  # fmt: skip
def test_refuses_class_weights(name, class_weights, error, message):
    with pytest.raises(error, match="class_weights.*" + message):
        CASES[name][0](F, Y, class_weights=class_weights)


@pytest.mark.parametrize(
    "function",
    [
        lambda counts: LDAM(F, Y, class_counts=counts),
        lambda counts: ADJUSTED(F, Y, class_counts=counts),
        losses.class_balanced_weights,
        losses.ldam_margins,
    ],
    ids=["ldam", "logit_adjusted", "class_balanced_weights", "ldam_margins"],
)
@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([5, 4, 0, 2, 1], ValueError, r"at least 1; got 0 for class 2. A class without "
         r"a training example has .*: leave it out .*numpy.maximum\(class_counts, "),
        ([5, 4, 3, 2, -1], ValueError, r"must be .* at least 1; got -1 for class 4$"),
        ([0.2] * 5, ValueError,
         r"got 0.2 for class 0. Give numbers of examples, not shares$"),
        ([5, np.nan, 3, 2, 1], ValueError, r"must be finite .* got nan for class 1"),
        (7, ValueError, r"must have .*; got shape \(\)"),
        (np.ones((5, 2)), ValueError, r"must have .*; got shape \(5, 2\)"),
        ([], ValueError, r"must have .*; got shape \(0,\)"),
        (collections.Counter(a=5, b=4), TypeError, r"one value per class in the order "
         r"of the labels; got a Counter.*\[c\] for c in range\((5|classes)\)\]$"),
        ({0: 5, 1: 4}, TypeError, r"must be a vector.*got a dict"),
        ("balanced", TypeError,
         r"must be numbers, one per class; got 'balanced'.*bincount"),
        ("5", TypeError, r"must be numbers, one per class; got '5'"),
        (None, TypeError, r"must be numbers, one per class; got None"),
    ],
)  # fmt: skip
def test_refuses_class_counts(function, counts, error, message):
    with pytest.raises(error, match=f"(?s)class_counts.*{message}"):
        function(counts)


@pytest.mark.parametrize("value", ["1", None, [], (lambda step: 0.7), 1j])
def test_refuses_hyperparameters_that_are_not_numbers(value):
    for name, function in (("focusing", FOCAL), ("alpha", SCE), ("q", GCE)):
        message = rf"{name} must be a (number in .0, .*; got|scalar; got shape)"
        with pytest.raises((TypeError, ValueError), match=message):
            function(F, Y, **{name: value})


@pytest.mark.parametrize("loss", [LDAM, ADJUSTED])
def test_refuses_another_number_of_class_counts(loss):
    message = (
        r"class_counts must have shape \(5,\); got shape \(3,\)\. "
        r"Count with numpy.bincount\(labels, minlength=5\)"
    )
    of = lambda counts: loss(F, Y, class_counts=counts)
    for function, counts in ((of, [3, 2, 1]), (jax.jit(of), jnp.ones(3))):
        with pytest.raises(ValueError, match=message):
            function(counts)


def test_refuses_flags_of_another_shape():
    with pytest.raises(ValueError, match=r"shape of labels, \(8,\); got \(7,\)"):
        TCE(F, Y, keep=np.ones(7))


@pytest.mark.parametrize(
    ("loss", "name", "interval", "refused"),
    [
        (FOCAL, "focusing", "[0, inf)", [-1, math.inf]),
        (LDAM, "max_margin", "[0, inf)", [-0.1, math.inf]),
        (LDAM, "scale", "(0, inf)", [0.0, -30, math.inf]),
        (SCE, "alpha", "[0, inf)", [-0.1, math.inf]),
        (SCE, "beta", "[0, inf)", [-0.1, math.inf]),
        (SCE, "smallest_probability", "[0, 1)", [-1e-7, 1]),
        (GCE, "q", "(0, 1]", [0.0, -0.7, 1.1]),
        (TCE, "q", "(0, 1]", [0, -0.7, 1.1]),
        (TCE, "k", "[0, 1)", [-0.1, 1.0]),
        (ADJUSTED, "tau", "[0, inf)", [-1.0, math.inf]),
        (losses.class_balanced_weights, "beta", "[0, 1)", [-0.1, 1.0, 1.1]),
        (losses.ldam_margins, "max_margin", "[0, inf)", [-0.1, math.inf]),
    ],
)
def test_refuses_hyperparameters(loss, name, interval, refused):
    function = partial(loss, F, Y, **counted(loss))
    if loss in (losses.class_balanced_weights, losses.ldam_margins):
        function = partial(loss, COUNTS)
    for value in [*refused, math.nan]:
        with pytest.raises(ValueError) as error:  # noqa: PT011, quoted in full below
            function(**{name: value})
        assert str(error.value) == f"{name} must lie in {interval}; got {value}"
    with pytest.raises(ValueError, match=rf"{name} must be a scalar; got shape \(2,\)"):
        function(**{name: np.ones(2)})


@every_loss
def test_equal_logits_of_any_size_are_equal_probabilities_as_programs_run(name):
    """The optimizing compiler rounds a fused product once, where it is stored twice."""
    optimized = (
        jax.jit(lambda row: jax.value_and_grad(CASES[name][0])(row, jnp.array(0)))
        .lower(jnp.zeros(CLASSES))
        .compile({"xla_backend_optimization_level": 3})
    )
    at_zero = optimized(jnp.zeros(CLASSES))
    for size in (1e4, 1e30):
        at_size = optimized(jnp.full(CLASSES, size))
        for expected, found in zip(at_zero, at_size, strict=True):
            assert np.isfinite(found).all()
            if name != "logit_adjusted":  # which adds what rounding takes
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
