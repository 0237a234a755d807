"""The recipe of several labels per image, in both of its readings."""

import jax
import jax.numpy as jnp
import pytest

from tests.recipes import checks, program

NAME = "multi_label"


def batches(module):
    images, labels = module.digits()
    return [
        (images[i : i + 24], labels[i : i + 24])
        for i in range(0, 24 * checks.STEPS, 24)
    ]


def start(module):
    params = module.init(jax.random.key(1), 64, 4)
    return params, module.tx.init(params)


def step_of(module):
    return lambda carry, *batch: module.train_step(*carry, *batch)[:2]


def train(module):
    carry = start(module)
    for batch in batches(module):
        carry = step_of(module)(carry, *batch)
    return carry[0]


def pair_losses(params, carry, images, labels):
    logits = images @ params["w"] + params["b"]
    return jax.nn.softplus(jnp.where(labels == 1, -logits, logits))


def image_losses(*args):
    return pair_losses(*args).mean(axis=1)


@pytest.fixture(params=["pair", "image"])
def example(request, monkeypatch):
    """The reading; the second is that of the recipe's prose."""
    if request.param == "image":
        ordinary, source = program.ordinary(NAME), checks.alternative(NAME)
        monkeypatch.setattr(program, "ordinary", lambda name: ordinary)
        monkeypatch.setattr(program, "_source", lambda name: source)
    return request.param


def test_updates_are_those_of_algorithm_1(example):
    module = program.load(NAME, lam=0.2)
    checks.follows_algorithm_1(
        step_of(module), {"pair": pair_losses, "image": image_losses}[example],
        lambda carry: carry[0], start(module), batches(module),
        lam=0.2, optimizer=checks.Sgd(rate=0.3),
    )  # fmt: skip


@pytest.mark.usefixtures("example")
def test_with_infinite_lam_both_readings_are_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)
