"""The recipe for `pmap` on eight devices, against the oracle over the whole batch."""

import chex
import flax.linen as nn
import jax
import numpy as np
import optax
from flax import jax_utils

import absgd_jax
from tests import oracle
from tests.recipes import checks, numpy_steps, program

BATCHES = list(program.load("linen_pmap").batches(4, batch_size=32))
DECAY = 1e-4


def network(params, stats, x):
    """The recipe's network on the whole batch: no devices, no axis name."""
    hidden = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    normalised, stats = nn.BatchNorm(use_running_average=False).apply(
        {"params": params["BatchNorm_0"], "batch_stats": stats["BatchNorm_0"]},
        hidden,
        mutable=["batch_stats"],
    )
    hidden = nn.relu(normalised)
    logits = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    return logits, {"BatchNorm_0": stats["batch_stats"]}


def test_updates_are_those_of_the_oracle_over_the_whole_batch():
    assert jax.device_count() == 8
    recipe = program.load("linen_pmap", lam=0.5)
    state = recipe.create_state()
    attention = oracle.Attention(lam=0.5)
    sgd = numpy_steps.MomentumSGD(state.params, 0.1)
    stats = state.batch_stats
    state = jax_utils.replicate(state)
    for x, y in BATCHES:
        whole_x, whole_y = x.reshape(-1, x.shape[-1]), y.reshape(-1)

        def losses_of(params, stats=stats, x=whole_x, y=whole_y):
            logits, _ = network(params, stats, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y)

        before = numpy_steps.tree32(sgd.params)
        gradient = numpy_steps.direction(attention, losses_of, sgd.params)
        sgd.step(
            jax.tree.map(
                lambda g, w: g + DECAY * w if w.ndim > 1 else g, gradient, sgd.params
            )
        )
        _, stats = network(before, stats, whole_x)
        state, _ = recipe.train_step(state, x, y)
        for device in (0, 7):
            one = jax.device_get(jax.tree.map(lambda a, d=device: a[d], state))
            chex.assert_trees_all_close(
                numpy_steps.tree64(one.params), sgd.params, rtol=1e-5, atol=2e-6
            )
            chex.assert_trees_all_close(
                numpy_steps.tree64(one.batch_stats),
                numpy_steps.tree64(stats),
                rtol=1e-5,
                atol=2e-6,
            )
    np.testing.assert_allclose(
        absgd_jax.normalizer(one), attention.s / (1 - attention.share), rtol=1e-5
    )


def run(module):
    state, losses = jax_utils.replicate(module.create_state()), []
    for x, y in BATCHES:
        state, loss = module.train_step(state, x, y)
        losses.append(jax.device_get(loss))
    return jax.device_get((state.params, state.batch_stats, state.opt_state, losses))


def test_without_attention_it_is_the_ordinary_program():
    got = run(program.load("linen_pmap", lam=np.inf))
    expected = run(program.ordinary("linen_pmap"))
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


def test_as_a_script_it_trains(capsys):
    checks.runs("linen_pmap", capsys)
