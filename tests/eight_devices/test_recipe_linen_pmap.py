"""The recipe for `pmap` on eight devices, against the oracle over the whole batch."""

import chex
import flax.linen as nn
import jax
import optax
from flax import jax_utils

import absgd_jax
from tests.recipes import checks, program

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


class Decayed(checks.Sgd):
    """SGD whose kernels decay."""

    def __call__(self, direction, params):
        decay = jax.tree.map(lambda w: DECAY * w * (w.ndim > 1), params)
        return super().__call__(direction + checks.flat(decay), params)


def one(state):
    """The state of the first device, which is that of the last."""
    state = jax.device_get(state)
    first, last = (jax.tree.map(lambda leaf, d=d: leaf[d], state) for d in (0, 7))
    chex.assert_trees_all_close(first, last, rtol=1e-6)
    return first


def test_updates_are_those_of_algorithm_1_over_the_whole_batch():
    assert jax.device_count() == 8
    recipe = program.load("linen_pmap", lam=0.5)

    def losses_of(params, state, x, y):
        x = x.reshape(-1, x.shape[-1])
        logits, _ = network(params, one(state).batch_stats, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y.reshape(-1))

    def step(state, x, y):
        before = one(state)
        _, stats = network(
            before.params, before.batch_stats, x.reshape(-1, x.shape[-1])
        )
        state, _ = recipe.train_step(state, x, y)
        chex.assert_trees_all_close(one(state).batch_stats, stats, rtol=1e-5, atol=2e-6)
        return state

    checks.follows_algorithm_1(
        step, losses_of, lambda state: one(state).params,
        jax_utils.replicate(recipe.create_state()), BATCHES, lam=0.5, x64=False,
        optimizer=Decayed(), rtol=2e-5,
        s_of=lambda state: absgd_jax.normalizer(one(state)),
    )  # fmt: skip


def run(module):
    state, losses = jax_utils.replicate(module.create_state()), []
    for x, y in BATCHES:
        state, loss = module.train_step(state, x, y)
        losses.append(jax.device_get(loss))
    return jax.device_get((state.params, state.batch_stats, state.opt_state, losses))


def test_without_attention_it_is_the_ordinary_program():
    checks.is_the_ordinary_program("linen_pmap", run, rtol=1e-6, atol=1e-6)


def test_as_a_script_it_trains(capsys):
    checks.runs("linen_pmap", capsys)
