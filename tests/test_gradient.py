"""tilted_value_and_grad: the whole batch and its microbatches are one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import absgd_jax
from tests import problems
from tests.problems import per_example_losses

B = 22
X, LABELS, V = (a[0] for a in problems.batches(1, batch=B))
x, labels, v = problems.as_dtype((X, LABELS, V), jnp.float32)
params = problems.as_dtype(problems.initial_params(), jnp.float32)


@pytest.mark.parametrize("lam", [0.05, np.inf, -0.5])
@pytest.mark.parametrize("micro", [1, 4, 11, 21, 100])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_microbatches_give_the_whole_batch(lam, micro, weighted, dense):
    """Ragged last microbatch, masks and weights included."""
    weights = {"where": jnp.arange(B) % 5 != 1, "sample_weights": v} if weighted else {}
    whole = jax.value_and_grad(
        lambda p: absgd_jax.tilted_loss(
            per_example_losses(p, x, labels), lam, **weights
        )
    )(params)
    parts = absgd_jax.tilted_value_and_grad(
        per_example_losses, lam, microbatch_size=micro, dense=dense
    )
    value, grad = jax.jit(parts)(params, x, labels, **weights)
    chex.assert_trees_all_close((value.tilted_loss, grad), whole, rtol=0, atol=1e-6)
    losses = per_example_losses(params, x, labels)
    v_ = weights.get("sample_weights", jnp.ones(B)) * weights.get("where", 1.0)
    assert float(value.mean_loss) == pytest.approx(
        float(np.average(losses, weights=v_)), rel=1e-6
    )


def test_microbatches_are_exact_in_float64():
    with jax.enable_x64(True):
        start = {"w": jnp.asarray(problems.initial_params()["w"])}
        for lam in (0.05, -0.5, 1e6):
            make = absgd_jax.tilted_value_and_grad
            whole = make(per_example_losses, lam)(start, X, LABELS)
            parts = make(per_example_losses, lam, microbatch_size=5)(start, X, LABELS)
            chex.assert_trees_all_close(parts, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("masked", [slice(0, 8), slice(8, 16), slice(16, 22)])
def test_a_microbatch_of_padding_alone_counts_for_nothing(masked):
    mask = jnp.ones(B, bool).at[masked].set(False)
    poisoned = x.at[masked].set(jnp.where(mask[masked][:, None], 0.0, 1e6))
    parts = absgd_jax.tilted_value_and_grad(per_example_losses, 0.7, microbatch_size=8)
    rest = np.flatnonzero(np.asarray(mask))
    whole = absgd_jax.tilted_value_and_grad(per_example_losses, 0.7)
    chex.assert_trees_all_close(
        parts(params, poisoned, labels, where=mask),
        whole(params, x[rest], labels[rest]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_lam_may_be_traced():
    @jax.jit
    def both(lam):
        return tuple(
            absgd_jax.tilted_value_and_grad(
                per_example_losses, lam, microbatch_size=size
            )(params, x, labels)
            for size in (None, 6)
        )

    for lam in (0.5, -0.5, jnp.inf):
        whole, parts = both(lam)
        chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro", [None, 1, 4, 7])
@pytest.mark.parametrize("dense", [False, True])
def test_aux_comes_back_in_the_order_of_the_batch(micro, dense):
    """Leaves with a batch axis concatenate, the others average over examples."""

    def losses_and_aux(p, x, labels):
        losses = per_example_losses(p, x, labels)
        return losses, {"logits": x @ p["w"], "mean": x.mean(axis=0), "one": x.mean()}

    (_, aux), _ = absgd_jax.tilted_value_and_grad(
        losses_and_aux, 1.0, has_aux=True, microbatch_size=micro, dense=dense
    )(params, x, labels)
    expected = losses_and_aux(params, x, labels)[1]
    chex.assert_trees_all_close(aux, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_gradients_keep_their_dtype():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    make = absgd_jax.tilted_value_and_grad
    whole = make(per_example_losses, 0.5)(half, x.astype(jnp.bfloat16), labels)
    parts = make(per_example_losses, 0.5, microbatch_size=4)(
        half, x.astype(jnp.bfloat16), labels
    )
    chex.assert_trees_all_equal_dtypes(parts, whole)
    assert parts[1]["w"].dtype == jnp.bfloat16
    chex.assert_trees_all_close(parts, whole, rtol=0.05, atol=0.01)


def test_trains_with_scale_by_attention_as_the_whole_batch_does():
    tx = optax.chain(absgd_jax.scale_by_attention(0.5), optax.sgd(0.1, momentum=0.9))
    data = problems.as_dtype(problems.batches(20), jnp.float32)

    @jax.jit
    def step(w, state, bx, by):
        lam = absgd_jax.attention_state(state).lam
        value, grads = absgd_jax.tilted_value_and_grad(
            per_example_losses, lam, microbatch_size=5
        )(w, bx, by)
        updates, state = tx.update(grads, state, w, value=value)
        return optax.apply_updates(w, updates), state

    (w, state), (expected, expected_state) = ((params, tx.init(params)),) * 2
    for bx, by, _ in zip(*data, strict=True):
        w, state = step(w, state, bx, by)
        expected, expected_state, _ = problems.route_step(
            "value", tx, expected, expected_state, bx, by
        )
    chex.assert_trees_all_close(
        (w, state), (expected, expected_state), rtol=2e-5, atol=2e-6
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="microbatch_size must be positive, got 0"):
        absgd_jax.tilted_value_and_grad(per_example_losses, 1.0, microbatch_size=0)
    with pytest.raises(ValueError, match="lam must be nonzero"):
        absgd_jax.tilted_value_and_grad(per_example_losses, 0.0)
    with pytest.raises(ValueError, match=r"one loss per example: .* shape \(1, 3\)"):
        absgd_jax.tilted_value_and_grad(lambda p, x: x @ p["w"], 1.0, dense=True)(
            params, x
        )
    function = absgd_jax.tilted_value_and_grad(
        per_example_losses, 1.0, microbatch_size=4
    )
    with pytest.raises(ValueError, match=r"same leading axis, got .*\(21,\), \(22,\)"):
        function(params, x, labels[:-1])
    with pytest.raises(ValueError, match="before their mean"):
        absgd_jax.tilted_value_and_grad(
            lambda p, x, y: per_example_losses(p, x, y).mean(), 1.0
        )(params, x, labels)
