"""The recipe of clipping, frozen layers and a moving average of the parameters."""

import jax
import numpy as np
import optax
import pytest

import absgd_jax
from tests.recipes import checks, program

NAME = "clip_ema_freeze"


def start(module):
    params = module.init(jax.random.key(1))
    return params, params, module.tx.init(params)


def step_of(module):
    return lambda carry, *batch: module.train_step(*carry, *batch)


def train(module):
    carry = start(module)
    for batch in checks.digits():
        carry = step_of(module)(carry, *batch)
    return carry[:2]


def example_losses(params, carry, images, labels):
    logits = jax.nn.relu(images @ params["features"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Clipped(checks.Sgd):
    """SGD of the head, on a direction whose norm is at most a half."""

    def __init__(self):
        super().__init__(rate=0.3)
        self.clipped = 0

    def __call__(self, direction, params):
        norm = np.linalg.norm(direction)  # of all layers, as `optax` takes it
        self.clipped += norm > 0.5
        update = super().__call__(direction * min(1.0, 0.5 / norm), params)
        update[: params["features"].size] = 0.0
        return update


def test_updates_are_those_of_algorithm_1_then_clipped_then_frozen():
    module = program.load(NAME, lam=checks.LAM)
    optimizer, averages = Clipped(), []
    average = checks.flat(start(module)[1])

    def step(carry, *batch):
        carry = step_of(module)(carry, *batch)
        averages.append((checks.flat(carry[0]), checks.flat(carry[1])))
        return carry

    checks.follows_algorithm_1(
        step, example_losses, lambda carry: carry[0], start(module), checks.digits(),
        optimizer=optimizer,
    )  # fmt: skip
    assert optimizer.clipped
    for params, got in averages:
        average = 0.9 * average + 0.1 * params
        np.testing.assert_allclose(got, average, rtol=0, atol=1e-6)


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)


def test_attention_inside_the_partition_is_refused():
    module = program.load(NAME)
    tx = optax.partition(
        {"trained": absgd_jax.absgd(0.1, 0.7), "frozen": optax.set_to_zero()},
        {"features": "frozen", "head": "trained"},
    )
    params, *_ = start(module)
    grads = jax.tree.map(lambda p: np.ones((2, *p.shape), np.float32), params)
    with pytest.raises(ValueError, match="masked leaves"):
        tx.update(grads, tx.init(params), params, losses=np.ones(2, np.float32))


def smooth_losses(params, images, labels):
    """A pullback of these holds floating-point arrays alone."""
    logits = jax.nn.gelu(images @ params["features"]) @ params["head"]
    return optax.softmax_cross_entropy(logits, np.eye(10, dtype=np.float32)[labels])


CLIPS = {
    "clip": (optax.clip(1e-2), "indices must have an integer type"),
    "norm": (optax.clip_by_global_norm(1e-2), "lax.select requires arguments to have"),
}


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_in_front_of_a_pullback_is_wrong_or_an_error(clip):
    params, *_ = start(program.load(NAME))
    attention, (clip, message) = absgd_jax.attentional_aggregate(0.7), CLIPS[clip]

    def aggregate(losses_of, *order):
        of = lambda params: losses_of(params, *checks.digits()[0])
        losses, pullback = jax.vjp(of, params)
        tx = optax.chain(*order)
        return checks.flat(
            tx.update(pullback, tx.init(params), params, losses=losses)[0]
        )

    right = aggregate(smooth_losses, attention, clip)
    wrong = aggregate(smooth_losses, clip, attention)
    assert np.linalg.norm(wrong) < 0.1 * np.linalg.norm(right)
    of_labels = lambda params, *batch: example_losses(params, None, *batch)
    with pytest.raises((TypeError, ValueError), match=message):
        aggregate(of_labels, clip, attention)
