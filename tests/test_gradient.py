"""tilted_value_and_grad: the whole batch and its microbatches are one."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import absgd_jax
from tests import problems
from tests.problems import per_example_losses

B = 22
X, LABELS, _ = (a[0] for a in problems.batches(1, batch=B))
params, x, labels, v = problems.start(B)


LAMS = (0.05, np.inf, -0.5)


@jax.jit
def whole_batch(params, x, labels, lam, **weights):
    """By `tilted_loss` alone."""
    return jax.value_and_grad(
        lambda p: absgd_jax.tilted_loss(
            per_example_losses(p, x, labels), lam, **weights
        )
    )(params)


def in_parts(micro, dense=False, losses_of=per_example_losses, **kwargs):
    """`tilted_value_and_grad` compiled, a function of λ, parameters and a batch."""

    def value_and_grad(lam, params, *batch, **weights):
        return absgd_jax.tilted_value_and_grad(
            losses_of, lam, microbatch_size=micro, dense=dense, **kwargs
        )(params, *batch, **weights)

    return jax.jit(value_and_grad)


@pytest.mark.parametrize(
    ("micro", "dense", "weighted"),
    [
        (4, False, True), (11, False, False), (100, False, True),
        (1, True, False), (4, True, True),
    ],
)  # fmt: skip
def test_microbatches_give_the_whole_batch(micro, dense, weighted):
    """Ragged last microbatch, masks and weights included; λ is traced."""
    weights = {"where": jnp.arange(B) % 5 != 1, "sample_weights": v} if weighted else {}
    parts = in_parts(micro, dense)
    mean = np.average(
        per_example_losses(params, x, labels),
        weights=weights.get("sample_weights", jnp.ones(B)) * weights.get("where", 1.0),
    )
    for lam in LAMS:
        value, grad = parts(lam, params, x, labels, **weights)
        expected = whole_batch(params, x, labels, lam, **weights)
        chex.assert_trees_all_close(
            (value.tilted_loss, grad), expected, rtol=0, atol=1e-6
        )
        assert float(value.mean_loss) == pytest.approx(float(mean), rel=1e-6)


@pytest.mark.parametrize(("lam", "micro"), [(0.5, 4), (absgd_jax.kl_radius(0.2), None)])
def test_the_value_logs_losses_that_no_bound_has_limited(lam, micro):
    tx = absgd_jax.absgd(0.0, lam, max_weight=1.1)
    step = jax.jit(problems.stepper("tilted", tx))
    _, state = step(params, tx.init(params), x, labels)  # a radius starts from ∞
    logged = jax.jit(
        lambda lam: absgd_jax.tilted_value_and_grad(
            per_example_losses, lam, microbatch_size=micro
        )(params, x, labels)[0]
    )
    value, free = logged(state), logged(absgd_jax.attention_state(state).lam)
    assert value.tilted_loss < value.unbounded
    of_bound = {"max_weight": None, "unbounded": None, "count": None}
    found = dataclasses.replace(value, tilted_loss=value.unbounded, **of_bound)
    chex.assert_trees_all_close(found, free, rtol=1e-5)


def test_microbatches_are_exact_in_float64():
    with jax.enable_x64(True):
        start = {"w": jnp.asarray(problems.initial_params()["w"])}
        parts, whole = in_parts(5), in_parts(None)
        for lam in (0.05, -0.5, 1e6):
            chex.assert_trees_all_close(
                parts(lam, start, X, LABELS), whole(lam, start, X, LABELS),
                rtol=1e-12, atol=1e-13,
            )  # fmt: skip


def test_a_microbatch_of_padding_alone_counts_for_nothing():
    parts = in_parts(8)
    for masked in range(3):
        mask = np.arange(B) // 8 != masked
        poisoned = jnp.where(mask[:, None], x, 1e6)
        value, grad = parts(0.7, params, poisoned, labels, where=mask)
        expected = whole_batch(params, x, labels, 0.7, where=mask)
        chex.assert_trees_all_close(
            (value.tilted_loss, grad), expected, rtol=1e-5, atol=1e-6
        )


def test_losses_below_zero_have_their_own_extremes_in_microbatches():
    of = lambda p, x, labels: per_example_losses(p, x, labels) - 100.0
    found, expected = (in_parts(micro, losses_of=of)(0.7, params, x, labels)[0]
                       for micro in (4, None))  # fmt: skip
    chex.assert_trees_all_close(found, expected, rtol=1e-4)
    assert found.high < 0.0


def test_a_batch_of_padding_alone_has_no_mean_loss():
    value, _ = in_parts(None)(0.7, params, x, labels, where=jnp.zeros(B, bool))
    assert np.isnan([value.tilted_loss, value.mean_loss]).all()


def test_dense_gradients_of_padding_may_be_anything():
    x, mask = jnp.array([4.0, 0.0, 9.0]), jnp.array([True, False, True])
    of = lambda w, x: jnp.sqrt(w * x)  # its derivative at 0 is infinite times 0
    _, grad = in_parts(None, True, of)(1.0, jnp.float32(1.0), x, where=mask)
    _, expected = in_parts(None, True, of)(1.0, jnp.float32(1.0), x[mask])
    assert float(grad) == pytest.approx(float(expected), rel=1e-6)


def test_aux_of_one_example_is_what_the_function_returned():
    def losses_and_aux(p, x, labels):
        return per_example_losses(p, x, labels), {"right": labels == 0, "size": x.size}

    call = absgd_jax.tilted_value_and_grad(
        losses_and_aux, 1.0, has_aux=True, dense=True
    )
    (_, aux), _ = call(params, x[:1], labels[:1])
    assert aux["right"].dtype == bool
    chex.assert_trees_all_equal(aux, losses_and_aux(params, x[:1], labels[:1])[1])


def test_a_batch_of_numpy_is_one_of_jax_in_every_microbatch():
    """Also in the last, smaller one, which is no part of the loop."""
    of = lambda p, x, labels: per_example_losses(p, x.at[:, 0].set(0.0), labels)
    call = absgd_jax.tilted_value_and_grad(of, 1.0, microbatch_size=4)
    found = call(params, np.asarray(x), np.asarray(labels))
    chex.assert_trees_all_close(found, call(params, x, labels), rtol=1e-6)


@pytest.mark.parametrize(
    ("micro", "dense"), [(None, False), (None, True), (1, False), (7, False), (7, True)]
)
def test_aux_comes_back_in_the_order_of_the_batch(micro, dense):
    """Leaves with a batch axis concatenate, the others average over examples."""

    def losses_and_aux(p, x, labels):
        losses = per_example_losses(p, x, labels)
        return losses, {"logits": x @ p["w"], "mean": x.mean(axis=0), "one": x.mean()}

    call = in_parts(micro, dense, losses_and_aux, has_aux=True)
    (_, aux), _ = call(1.0, params, x, labels)
    expected = losses_and_aux(params, x, labels)[1]
    chex.assert_trees_all_close(aux, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_aux_in_float16_is_no_sum():
    """Which would exceed its largest number, 65,504."""
    of = lambda w, x: ((w * x) ** 2, jnp.float16(100.0))
    call = absgd_jax.tilted_value_and_grad(of, 1.0, has_aux=True, microbatch_size=500)
    (_, aux), _ = jax.jit(call)(1.0, jnp.ones(1001))
    assert aux == 100.0


@pytest.mark.parametrize("how", [{"micro": 7}, {"micro": None, "dense": True}])
@pytest.mark.parametrize(
    "of_labels", [jnp.sum, lambda _: jnp.array(True), lambda _: jax.random.key(0)]
)
def test_aux_that_has_no_mean_is_refused(of_labels, how):
    def losses_and_aux(p, x, labels):
        aux = {"right": labels == 0, "more": [of_labels(labels)]}
        return per_example_losses(p, x, labels), aux

    call = in_parts(losses_of=losses_and_aux, has_aux=True, **how)
    with pytest.raises(TypeError, match=r"aux\['more'\]\[0\], .*Return it per example"):
        call(1.0, params, x, labels)


@pytest.mark.parametrize("how", [{"micro": 4}, {"micro": None, "dense": True}])
def test_aux_whose_batch_axis_is_not_the_first_is_refused(how):
    of = lambda p, x, labels: (per_example_losses(p, x, labels), (x @ p["w"]).T)
    call = in_parts(losses_of=of, has_aux=True, **how)
    with pytest.raises(ValueError, match=r"aux of shape \(.*batch axis first, as"):
        call(1.0, params, x, labels)


def test_half_precision_gradients_keep_their_dtype():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    whole, parts = (
        in_parts(micro)(0.5, half, x.astype(jnp.bfloat16), labels)
        for micro in (None, 4)
    )
    chex.assert_trees_all_equal_dtypes(parts, whole)
    assert parts[1]["w"].dtype == jnp.bfloat16
    chex.assert_trees_all_close(parts, whole, rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    ("lams", "bounds", "rtol"),
    [
        (np.array([0.1, 0.3, -0.2, 0.5]), np.array([1.5, 3.0, 1.2, np.inf]), 2e-5),
        (absgd_jax.kl_radius(0.2, -1), np.array([2.0, np.inf]), 1e-4),
    ],
    ids=["lam", "radius"],
)
def test_every_route_trains_alike(lams, bounds, rtol):
    """By pullback, dense gradients and the value, whole and in microbatches."""
    follows = isinstance(lams, tuple)
    data = problems.as_dtype(problems.batches(25)[:2], jnp.float32)
    routes = ("pullback", {}), ("dense", {}), ("tilted", {}), ("tilted", {"micro": 5})

    def train(lam, c):
        tx = absgd_jax.absgd(0.1, lams if follows else lam, 0.2, max_weight=c)
        steps = [problems.stepper(route, tx, **micro) for route, micro in routes]

        def step(states, batch):
            return [f(*each, *batch) for f, each in zip(steps, states, strict=True)], ()

        return jax.lax.scan(step, [(params, tx.init(params))] * len(routes), data)[0]

    lam = bounds if follows else lams  # which the radius has in its place
    first, *others = jax.device_get(jax.jit(jax.vmap(train))(lam, bounds))
    for other in others:
        chex.assert_trees_all_close(other, first, rtol=rtol, atol=rtol / 10)
    assert np.isfinite(absgd_jax.attention_state(first[1]).lam).all()


def test_settings_are_handed_to_the_loss_function_whole():
    x, w = jnp.arange(1.0, 6.0), jnp.float32(0.5)
    loss_fn = lambda w, x, scale, squared=False: (
        scale * (w * x) ** (2 if squared else 1)
    )
    plain = lambda w, x: 3.0 * (w * x) ** 2
    expected = jax.jit(absgd_jax.tilted_value_and_grad(plain, 2.0))(w, x)
    for size in (None, 2):
        of = absgd_jax.tilted_value_and_grad(loss_fn, 2.0, microbatch_size=size)
        found = jax.jit(of, static_argnames="squared")(w, x, scale=3.0, squared=True)
        chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_a_mean_that_keeps_its_axis_is_refused_in_microbatches():
    loss_fn = lambda w, x: jnp.mean((w * x) ** 2, keepdims=True)
    of = absgd_jax.tilted_value_and_grad(loss_fn, 2.0, microbatch_size=2)
    with pytest.raises(ValueError, match=r"microbatch of 2 examples gave .* \(1,\)"):
        of(jnp.float32(1.0), jnp.arange(4.0))


@pytest.mark.parametrize(
    ("lam", "order"), [(2.0, (0, 1)), (absgd_jax.kl_radius(), (1, 0))]
)
def test_losses_of_several_tokens_need_no_batch_axis_in_microbatches(lam, order):
    """Flat, or time first."""
    x = jnp.linspace(-1.0, 2.0, 7 * 3 * 2).reshape(7, 3, 2)
    w = jnp.array([0.5, -1.0])
    loss_fns = [
        lambda w, x: (x @ w) ** 2,
        lambda w, x: ((x @ w) ** 2).transpose(order).reshape(-1),
        lambda w, x: ((x @ w) ** 2).T,
    ]
    state = absgd_jax.absgd(0.1, lam).init(w)
    expected, *others = (
        jax.jit(absgd_jax.tilted_value_and_grad(loss_fn, state, microbatch_size=size))(
            w, x
        )
        for loss_fn in loss_fns
        for size in (None, 3)
    )
    for other in others:
        chex.assert_trees_all_close(other, expected, rtol=1e-5, atol=1e-6)


def test_losses_of_more_bits_than_the_parameters_go_in_microbatches():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        x = jnp.arange(1.0, 6.0, dtype=jnp.float64)
        w = jnp.ones((), jnp.float32)
        loss_fn = lambda w, x: (w.astype(x.dtype) * x) ** 2
        found, expected = (
            jax.jit(
                absgd_jax.tilted_value_and_grad(loss_fn, 9.0, microbatch_size=size)
            )(w, x)
            for size in (2, None)
        )
        assert found[1].dtype == jnp.float32
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
