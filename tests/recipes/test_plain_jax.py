"""Recipes of JAX and Optax alone: Algorithm 1's updates, and what each adds to them."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import absgd_jax
from tests.oracle import Attention
from tests.recipes import checks, program


def batches(module):
    """Of whatever the recipe trains on."""
    if hasattr(module, "sequences"):
        rng = np.random.default_rng(5)
        return [module.sequences(rng, 32) for _ in range(checks.STEPS)]
    if hasattr(module, "digits"):  # with several labels
        images, labels = module.digits()
        places = np.split(np.arange(64 * checks.STEPS), checks.STEPS)
        return [(images[each], labels[each]) for each in places]
    if "accumulation" in module.__name__:  # of four an update
        return checks.digits(12, batch=16)
    if "microbatches" in module.__name__:  # the last of which is smaller
        return checks.digits(batch=40)
    return checks.digits()


def start(module):
    """What the first step is given."""
    sizes = (64, 4) if hasattr(module, "digits") else ()
    params = module.init(jax.random.key(1), *sizes)
    average = (params,) if "ema" in module.__name__ else ()
    state = (module.attention.init(),) if hasattr(module, "attention") else ()
    return params, *average, module.tx.init(params), *state


def step_of(module):
    return lambda carry, *batch: module.train_step(*carry, *batch)[: len(carry)]


def train(module):
    """The parameters, and their average where there is one."""
    carry = start(module)
    for batch in batches(module):
        carry = step_of(module)(carry, *batch)
    return carry[:2] if "ema" in module.__name__ else carry[0]


# Losses of the recipes' networks, written again.


def linear(params, carry, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def two_layers(params, carry, images, labels):
    logits = jax.nn.relu(images @ params["features"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def of_pairs(params, carry, images, labels):
    logits = images @ params["w"] + params["b"]
    return jax.nn.softplus(jnp.where(labels == 1, -logits, logits))


def of_images(*args):
    return of_pairs(*args).mean(axis=1)


def of_tokens(params, carry, inputs, targets, mask):
    """Cross-entropy to 0.9 of the target and 0.1 of the mean over the vocabulary."""
    log_p = jax.nn.log_softmax(params["embed"][inputs] @ params["head"])
    of_target = jnp.take_along_axis(log_p, jnp.asarray(targets)[..., None], -1)[..., 0]
    return -0.9 * of_target - 0.1 * log_p.mean(axis=-1)


def of_sequences(params, carry, inputs, targets, mask):
    losses = of_tokens(params, carry, inputs, targets, mask)
    return (losses * mask).sum(axis=1) / mask.sum(axis=1)


# And their optimizers.


class MultiSteps(checks.Sgd):
    """SGD on the mean of four directions; none of the first three moves a parameter."""

    def __init__(self):
        super().__init__(rate=0.2)
        self.directions = []

    def __call__(self, direction, params):
        self.directions.append(direction)
        if len(self.directions) < 4:
            return np.zeros_like(direction)
        mean, self.directions = np.mean(self.directions, axis=0), []
        return super().__call__(mean, params)


class Penalized(checks.Sgd):
    """SGD whose gradient has that of the penalty too, and not weighted."""

    def __call__(self, direction, params):
        penalty = {"b": np.zeros(10), "w": 1e-3 * np.sign(params["w"])}
        return super().__call__(direction + checks.flat(penalty), params)


class Clipped(checks.Sgd):
    """SGD of the head, on a direction whose norm is at most a half."""

    clipped = 0

    def __call__(self, direction, params):
        norm = np.linalg.norm(direction)  # of all layers, as `optax` takes it
        self.clipped += norm > 0.5
        update = super().__call__(direction * min(1.0, 0.5 / norm), params)
        update[: params["features"].size] = 0.0
        return update


moderate, fast = partial(checks.Sgd, 0.2), partial(checks.Sgd, 0.3)
# Each recipe, and some in a second reading too, which is that of their prose.
RECIPES = {
    # With the microbatch for Algorithm 1's batch.
    "accumulation": {"losses_of": linear, "optimizer": MultiSteps},
    "microbatches": {"losses_of": linear, "optimizer": moderate},
    "bfloat16": {"losses_of": two_layers, "lam": 0.3},
    "penalty": {"losses_of": linear, "optimizer": partial(Penalized, 0.2)},
    "clip_ema_freeze": {"losses_of": two_layers, "optimizer": partial(Clipped, 0.3)},
    "multi_label": {"losses_of": of_pairs, "lam": 0.2, "optimizer": fast},
    "multi_label, by image": {
        "losses_of": of_images, "lam": 0.2, "optimizer": fast
    },
    "tokens": {
        "losses_of": of_tokens, "optimizer": fast,
        "weights_of": lambda inputs, targets, mask: mask,
    },
    "tokens, by sequence": {
        "losses_of": of_sequences, "optimizer": fast,
        "weights_of": lambda inputs, targets, mask: mask.sum(axis=1),
    },
}  # fmt: skip


@pytest.fixture(params=RECIPES)
def recipe(request, monkeypatch):
    """The name of a recipe, and the reading in place."""
    name, _, second = request.param.partition(", ")
    if second:
        source = checks.alternative(name)
        monkeypatch.setattr(program, "_source", lambda name: source)
    return name, RECIPES[request.param]


def test_updates_are_those_of_algorithm_1(recipe):
    name, settings = recipe
    module = program.load(name, lam=settings.get("lam", checks.LAM))
    if name == "bfloat16":
        module.DTYPE = jnp.float32
    optimizer = settings.get("optimizer", checks.Sgd)()
    averages, average = [], start(module)[1]

    def step(carry, *batch):
        carry = step_of(module)(carry, *batch)
        averages.append((carry[0], carry[1]))
        return carry

    checks.follows_algorithm_1(
        step, carry=start(module), batches=batches(module),
        params_of=lambda carry: carry[0], compiled=True,
        **settings | {"optimizer": optimizer},
    )  # fmt: skip
    if name == "clip_ema_freeze":
        assert optimizer.clipped
        for params, got in averages:
            average = jax.tree.map(lambda a, w: 0.9 * a + 0.1 * w, average, params)
            chex.assert_trees_all_close(got, average, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RECIPES if ", " not in name])
def test_with_infinite_lam_it_is_the_ordinary_program(name):
    checks.is_the_ordinary_program(name, train)


# bfloat16: what is rounded to eight bits, and what is not.


def test_in_bfloat16_s_is_that_of_the_programs_own_losses():
    """And updates are Algorithm 1's, as far as bfloat16 goes."""
    module, attention, sgd = (
        program.load("bfloat16", lam=0.3),
        Attention(0.3),
        checks.Sgd(),
    )
    carry = start(module)
    of = lambda params, _, *batch: module.example_losses(params, *batch)
    for batch in checks.digits():
        params, opt_state = carry
        losses, gradient = checks.losses_and_gradient(
            of, params, None, *batch, x64=False, compiled=True
        )
        weights = attention.weights(losses) / len(losses)
        expected = sgd(gradient(weights), params)
        *carry, _ = module.train_step(params, opt_state, *batch)
        s = absgd_jax.normalizer(carry[1])
        assert float(s) == pytest.approx(attention.s, rel=1e-3)
        # Parameters and gradients are rounded by up to 1/256 of themselves.
        error = checks.flat(carry[0]) - checks.flat(params) - expected
        assert np.linalg.norm(error) < 0.1 * np.linalg.norm(expected)


def test_lam_and_the_momentum_keep_their_dtypes():
    module = program.load("bfloat16", lam=0.3)
    carry = start(module)
    dtypes = lambda carry: jax.tree.map(lambda leaf: leaf.dtype, carry)
    *after, _ = module.train_step(*carry, *checks.digits()[0])
    assert dtypes(tuple(after)) == dtypes(carry)
    assert after[0]["head"].dtype == jnp.bfloat16
    state = absgd_jax.attention_state(after[1])
    assert state.lam == jnp.float32(0.3)
    assert state.tilted_loss.dtype == jnp.float32


# Tokens.


def test_losses_at_padding_may_be_anything():
    module = program.load("tokens", lam=checks.LAM)
    carry = start(module)
    inputs, targets, mask = batches(module)[0]
    expected = step_of(module)(carry, inputs, targets, mask)[0]
    losses = module.token_losses
    module = program.load("tokens", lam=checks.LAM)
    module.token_losses = lambda params, inputs, targets: jnp.where(
        mask, losses(params, inputs, targets), jnp.nan
    )
    got = step_of(module)(carry, inputs, targets, mask)[0]
    np.testing.assert_allclose(checks.flat(got), checks.flat(expected), rtol=1e-6)
