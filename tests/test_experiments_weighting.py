"""The baselines that weight examples, against NumPy in float64 and against laws."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import configs, methods, registry
from experiments.methods import recover
from tests import oracle, training_problem

CLASSES, EXAMPLES, FEATURES, ROWS = 3, 12, 4, 8
NAMES = [
    name
    for name, info in registry.METHODS.items()
    if info.weights and info.module != "attention" and not info.uses_meta_set
]


class Examples(NamedTuple):
    """A batch of softmax regression; padding is garbage."""

    x: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    present: np.ndarray
    offset: np.ndarray  # added to the losses


def draw(seed, present=ROWS, rows=ROWS, size=1.0):
    """The same examples for the same seed, whatever the padding."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    index = rng.integers(0, EXAMPLES, ROWS).astype(np.int32)  # with replacement
    offset = (size * rng.exponential(size=ROWS)).astype(np.float32)
    missing = rows - present
    pad = lambda x: np.pad(x[:present], [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    batch = Examples(*map(pad, (x, labels, index, np.full(ROWS, True), offset)))
    batch.x[present:] = 1e3
    batch.offset[present:] = np.resize([np.nan, np.inf, -np.inf], missing)
    return batch


def losses_of(params, x, labels, offset, class_weights=None):
    logits = x @ params["kernel"]
    label = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - label + offset, {}


def step_hyperparams(**changes):
    base = methods.step_hyperparams(configs.Run(), 1, 0)
    settings = {
        "lam": 0.7,
        "gamma": 0.3,
        "step_size": 0.4,
        "cvar_alpha": 0.35,
        "on": True,
    }
    settings |= changes
    typed = {k: getattr(base, k).dtype.type(v) for k, v in settings.items()}
    return base._replace(**typed)


def problem(params, batch, hyperparams, losses_of=losses_of):
    return methods.WeightingInput(
        params=params,
        per_example_losses=losses_of,
        examples=(batch.x, batch.labels, batch.offset),
        present=batch.present,
        labels=batch.labels,
        index=batch.index,
        class_weights=np.ones(CLASSES, np.float32),
        hyperparams=hyperparams,
    )


def the_rule(name):
    return methods.rule(configs.Run(method=configs.Method(name=name)))


@functools.cache
def compiled(name):
    rule = the_rule(name)
    return jax.jit(
        lambda params, batch, hyperparams, state: rule.gradient(
            problem(params, batch, hyperparams), state
        )
    )


def start(name, seed=0):
    rng = np.random.default_rng(seed)
    params = {"kernel": rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)}
    return params, the_rule(name).init(params, EXAMPLES, CLASSES)


def drive(name, batches, hyperparams):
    """Descends; what was found at each update, and where."""
    params, state = start(name)
    for batch in batches:
        found = jax.device_get(compiled(name)(params, batch, hyperparams, state))
        yield params, batch, found
        params = jax.tree.map(lambda w, g: w - 0.03 * g, params, found.gradient)
        state = found.state


def by_numpy(params, batch):
    """Losses, and the gradient of each, in float64; padding left out."""
    kernel, x = np.float64(params["kernel"]), np.float64(batch.x[batch.present])
    losses, gradients = oracle.softmax_regression(
        kernel, x, batch.labels[batch.present]
    )
    return losses + batch.offset[batch.present], {"kernel": gradients}


def mean_of(p, gradients):
    return {
        k: np.mean(p.reshape(-1, *[1] * (g.ndim - 1)) * g, axis=0)
        for k, g in gradients.items()
    }


def eg(L, batch, m, state):
    e = np.exp(L / m.lam)
    return e / e.mean(), m.lam * np.log(e.mean()), None


def eg_examples(L, batch, m, w):
    w = np.ones(EXAMPLES) if w is None else w.copy()
    for i, loss in zip(batch.index, L, strict=False):
        w[i] *= np.exp(-m.step_size * loss)
    w /= w.mean()
    p = w[batch.index[: len(L)]]
    return p, np.mean(p * L), w


def term(L, batch, m, s):
    e = np.exp(L / m.lam)
    s = e.mean() if s is None else (1 - m.gamma) * s + m.gamma * e.mean()
    return e / s, m.lam * np.log(s), s


def group_dro(L, batch, m, q):
    q = np.ones(CLASSES) / CLASSES if q is None else q.copy()
    y = batch.labels[: len(L)]
    of_class = {g: L[y == g].mean() for g in np.unique(y)}
    for g, loss in of_class.items():
        q[g] *= np.exp(m.step_size * loss)
    q /= q.sum()
    p = np.array([len(L) * q[g] / np.sum(y == g) for g in y])
    return p, sum(q[g] * loss for g, loss in of_class.items()), q


def cvar(L, batch, m, state):
    p, left = np.zeros(len(L)), float(m.cvar_alpha) * len(L)
    for i in np.argsort(-L):
        p[i] = min(left, 1.0) / float(m.cvar_alpha)
        left = max(left - 1.0, 0.0)
    return p, np.mean(p * L), None


REFERENCES = {f.__name__: f for f in (eg, eg_examples, term, group_dro, cvar)}
KEPT = {  # state -> what the reference keeps
    "eg_examples": lambda state, m: np.exp(state.log_weights),
    "term": lambda state, m: np.exp(state.tilted_loss / m.lam),
    "group_dro": lambda state, m: np.exp(state.log_q),
}
SOME = [draw(step, present=5 + step % 4) for step in range(20)]  # of 8 rows


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("eg", {}),
        ("eg", {"lam": -0.5}),
        ("eg_examples", {}),
        ("eg_examples", {"step_size": -0.3}),
        ("term", {}),
        ("term", {"lam": -0.5}),
        ("group_dro", {}),
        ("group_dro", {"step_size": 0.0}),
        *(("cvar", {"cvar_alpha": alpha}) for alpha in (0.01, 0.35, 0.9, 1.0)),
    ],
)
def test_it_is_what_its_paper_says(name, changes):
    m, state = step_hyperparams(**changes), None
    for params, batch, found in drive(name, SOME, m):
        L, gradients = by_numpy(params, batch)
        p, objective, state = REFERENCES[name](L, batch, m, state)
        here = batch.present
        np.testing.assert_allclose(found.losses[here], L, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(found.weights[here], p, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(found.objective, objective, rtol=2e-5, atol=1e-6)
        near(found.gradient, mean_of(p, gradients))
        if name in KEPT:
            np.testing.assert_allclose(KEPT[name](found.state, m), state, rtol=2e-4)


def near(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), a, b)


@pytest.mark.parametrize("a", [0.3, 0.9])
@pytest.mark.parametrize(("lam", "heavy"), [(3.0, False), (-1.0, False), (0.7, True)])
def test_recover_is_what_its_paper_says(lam, heavy, a):
    """As it is printed; the two bounds act only where batches differ wildly."""
    m, u, v, before, bounded = step_hyperparams(lam=lam, gamma=a), None, None, None, 0
    for params, batch, found in drive("recover", SOME, m):
        L, gradients = by_numpy(params, batch)
        e = np.exp(L / lam)
        if u is None:
            u = e.mean()
            v = mean_of(e / u, gradients)
        else:
            L_before, gradients_before = by_numpy(before, batch)
            e_before = np.exp(L_before / lam)
            factor = (1 - a) * e_before.mean() / u
            taken = mean_of(
                e_before / e_before.mean() * min(factor, 1 / a), gradients_before
            )
            bounded += factor > 1 / a
            unbounded = e.mean() + (1 - a) * (u - e_before.mean())
            u = max(unbounded, a * e.mean())
            bounded += u != unbounded
            new = mean_of(e / u, gradients)
            v = {k: new[k] + (1 - a) * v[k] - taken[k] for k in v}
        np.testing.assert_allclose(found.weights[batch.present], e / u, rtol=5e-4)
        np.testing.assert_allclose(found.objective, lam * np.log(u), 1e-3, 1e-5)
        near(found.gradient, v, rtol=1e-3, atol=1e-4)
        near(found.state.direction, found.gradient, 0, 0)
        near(found.state.params, params, 0, 0)
        before = params
    assert (bounded > 0) == heavy


def test_recovers_statistics_are_those_of_the_newest_parameters():
    def passed(params, *examples):
        return losses_of(params, *examples)[0], params["kernel"]

    params, state = start("recover")
    weigh = jax.jit(
        lambda params, state, batch: the_rule("recover").gradient(
            problem(params, batch, step_hyperparams(), passed), state
        )
    )
    for step in range(2):
        found = weigh(params, state, draw(step))
        np.testing.assert_array_equal(found.statistics, params["kernel"])
        params = jax.tree.map(lambda w, g: w - 0.03 * g, params, found.gradient)
        state = found.state


def test_recovers_estimate_is_exact_far_from_the_batch():
    """`log( 1 + (1 − a)(e^x − e^y) )`, at least log a, for exponents up to 300."""
    grid = np.float32(
        [-300.0, -9.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 7.9, 8.1, 20.0, 300.0]
    )
    x, y, a = np.meshgrid(grid, grid, np.float32([0.01, 0.5, 1.0]))
    X, Y, A = (v.astype(np.float64) for v in (x, y, a))
    ratio = 1.0 + (1.0 - A) * np.exp(Y) * np.expm1(X - Y)
    for lam in (1.0, -1.0, 4.0):
        found = recover._log_ratio(lam * x, lam * y, jnp.float32(0.0), lam, a)
        np.testing.assert_allclose(found, np.log(np.maximum(ratio, A)), 3e-5, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_order_change_nothing(name):
    """Three updates: bare, among padding, and backwards."""
    m = step_hyperparams()
    rest = lambda tree: jax.tree.leaves((tree.gradient, tree.state, tree.objective))
    turned = lambda batch: jax.tree.map(lambda x: x[::-1].copy(), batch)
    runs = [
        list(drive(name, [change(step) for step in range(3)], m))
        for change in (
            lambda step: draw(step, present=6, rows=6),
            lambda step: draw(step, present=6, rows=ROWS),
            lambda step: turned(draw(step, present=6, rows=ROWS)),
        )
    ]
    for (_, _, bare), (_, _, padded), (_, _, back) in zip(*runs, strict=True):
        near(padded.weights[:6], bare.weights)
        near(back.weights[::-1][:6], bare.weights)
        near(rest(padded), rest(bare))
        near(rest(back), rest(bare))


@pytest.mark.parametrize("name", ["eg", "term", "recover"])
@pytest.mark.parametrize("lam", [math.inf, -math.inf])
def test_without_tilt_all_weigh_one(name, lam):
    for params, batch, found in drive(name, SOME[:4], step_hyperparams(lam=lam)):
        np.testing.assert_array_equal(found.weights[batch.present], 1.0)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found.state))
        if name != "recover":  # whose variance is reduced all the same
            L, gradients = by_numpy(params, batch)
            near(found.gradient, mean_of(np.ones(len(L)), gradients))
            if name == "eg":
                np.testing.assert_allclose(found.objective, L.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lam", [0.1, -0.1])
def test_large_losses_overflow_nothing(name, lam):
    """exp(L/λ) up to e^±5000, and batches that differ by as much."""
    batches = [draw(step, 7, size=[1.0, 200.0][step % 2]) for step in range(6)]
    bound = {"term": ROWS / 0.3, "recover": ROWS / 0.3, "eg_examples": EXAMPLES}
    for _, batch, found in drive(name, batches, step_hyperparams(lam=lam)):
        numbers = (found.gradient, found.state, found.objective)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(numbers))
        p = found.weights[batch.present]
        assert np.all(p >= 0.0)
        assert np.all(p <= bound.get(name, ROWS) * 1.01)


@pytest.mark.parametrize("name", ["term", "recover"])
def test_a_share_of_one_is_the_batch_alone(name):
    m = step_hyperparams(gamma=1.0)
    for params, batch, found in drive(name, SOME[:6], m):
        alone = compiled("eg")(params, batch, m, ())
        here = batch.present
        np.testing.assert_array_equal(found.weights[here], alone.weights[here])
        near(found.gradient, alone.gradient, rtol=1e-6)
        np.testing.assert_allclose(found.objective, alone.objective, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_before_its_time_a_rule_neither_weighs_nor_learns(name):
    params, state = start(name)
    batch = draw(0, present=6)
    found = the_rule(name).before(
        problem(params, batch, step_hyperparams(on=False)), state
    )
    jax.tree.map(np.testing.assert_array_equal, found.state, state)
    L, gradients = by_numpy(params, batch)
    near(found.gradient, mean_of(np.ones(len(L)), gradients))


@pytest.mark.parametrize("name", ["sgd", *NAMES])
def test_a_gradient_costs_what_it_is_said_to(name):
    """One backward pass; RECOVER's two."""
    passes = []

    @jax.custom_vjp
    def counted(losses):
        return losses

    def backward(_, cotangent):
        passes.append(name)
        return (cotangent,)

    counted.defvjp(lambda losses: (losses, None), backward)

    def per_example_losses(params, *examples):
        losses, statistics = losses_of(params, *examples)
        return counted(losses), statistics

    params, state = start(name)
    question = problem(params, draw(0), step_hyperparams(), per_example_losses)
    jax.eval_shape(lambda: the_rule(name).gradient(question, state).gradient)
    assert len(passes) == (2 if name == "recover" else 1)


def test_a_network_trains():
    """The whole step: plain up to the switch, then by the rule."""
    changes = {"method.name": "recover", "method.init_s": None, "method.start_at": 0.25}
    run = configs.replace(training_problem.RUN, training_problem.CONVNET | changes)
    state, seen = training_problem.train(run, updates=4)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
    effective = np.array([one.effective for one in seen])
    np.testing.assert_allclose(effective[:2], 1.0, rtol=1e-6)
    assert np.all((effective[2:] > 0.0) & (effective[2:] < 1.0 - 1e-6))
    assert state.optimizer.rule.started
