"""Sampling by class: frequencies, cycles, and that it is drawn alike everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import configs
from experiments.data import loader, sampling
from experiments.data.loader import Batch
from experiments.data.types import Examples
from experiments.train import steps
from tests.batches import assert_resumed_and_shared, assert_same

COUNTS = np.array([600, 60, 0, 30, 6, 1])  # of classes, one of which is not there
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS))
RULES = ("balanced", "effective", "class_aware")


def _data(rule, **fields):
    return configs.Data(test_per_class=1, crop_padding=2, sampling=rule, **fields)


def _drawn(rule, rounds, beta=0.9999):
    """How often each class is drawn, and each example, in so many epochs."""
    sampler = sampling.sampler(_data(rule, sampling_beta=beta), LABELS)
    rngs = (np.random.default_rng([7, i]) for i in range(rounds))
    epochs = [sampler(rng) for rng in rngs]
    assert {len(epoch) for epoch in epochs} == {len(LABELS)}
    places = np.concatenate(epochs)
    return np.bincount(LABELS[places], minlength=6), np.bincount(places)


@pytest.mark.parametrize(
    ("rule", "beta"), [("balanced", 0.0), ("effective", 0.99), ("effective", 0.0)]
)
def test_draws_have_the_frequencies_of_the_theory(rule, beta):
    there = COUNTS > 0
    weight = (1 - beta) / (1 - beta ** np.maximum(COUNTS, 1.0))
    p = COUNTS * weight if rule == "effective" else 1.0 * there
    p /= p.sum()
    of_class, of_example = _drawn(rule, 60, beta)
    n = 60 * len(LABELS)
    assert np.all(np.abs(of_class - n * p) <= 5 * np.sqrt(n * p * (1 - p)))
    assert of_class[2] == 0
    # Within a class all alike: χ² of 599 degrees of freedom is below 775 but for 1e-6.
    alike = of_example[LABELS == 0]
    expected = alike.mean()
    assert np.sum((alike - expected) ** 2) / expected < 775


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    per_visit=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_class_aware_goes_in_cycles(counts, per_visit, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    drawn = sampling.class_aware(labels, rng, per_visit)
    assert len(drawn) == len(labels)
    visits = [drawn[i : i + per_visit] for i in range(0, len(drawn), per_visit)]
    assert all(len(set(labels[visit])) == 1 for visit in visits)
    order = [labels[visit[0]] for visit in visits]
    there = sorted(set(labels))
    for begin in range(0, len(order), len(there)):
        cycle = order[begin : begin + len(there)]
        assert len(set(cycle)) == len(cycle)
    for label in there:
        # All once before any comes again.
        own = drawn[labels[drawn] == label].tolist()
        size = counts[label]
        for begin in range(0, len(own), size):
            cycle = own[begin : begin + size]
            assert len(set(cycle)) == len(cycle)


def test_class_aware_reshuffles_with_every_cycle():
    labels = np.repeat(np.arange(2), [100, 5])
    drawn = sampling.class_aware(labels, np.random.default_rng(0))
    few = drawn[labels[drawn] == 1]
    classes = labels[drawn[:: sampling.PER_VISIT]]
    for taken, size in ((few, 5), (classes, 2)):
        cycles = taken[: len(taken) // size * size].reshape(-1, size)
        assert len(np.unique(cycles, axis=0)) > 1


# On the way to the loader.

IMAGES = np.random.default_rng(1).integers(0, 256, (len(LABELS), 8, 8, 1), np.uint8)
EXAMPLES = Examples(IMAGES, LABELS.astype(np.int32))


def _train(rule, **options):
    options = {"seed": 3, "epochs": range(2)} | options
    return list(loader.training(EXAMPLES, _data(rule), 64, **options))


def test_shuffling_is_what_it_has_always_been():
    rng = np.random.default_rng([3, 1, 5])
    np.testing.assert_array_equal(loader.order(3, 5, 40), rng.permutation(40))
    first = _train("shuffled", epochs=range(5, 6))[0]
    order = np.random.default_rng([3, 1, 5]).permutation(len(LABELS))
    np.testing.assert_array_equal(first.index, order[:64])


@pytest.mark.parametrize("rule", RULES)
def test_an_epoch_is_drawn_alike_wherever_it_begins_and_whoever_makes_it(rule):
    per_epoch = -(-len(LABELS) // 64)
    train = functools.partial(_train, rule)
    firsts, halves = (per_epoch - 4, per_epoch), [slice(32), slice(32, 64)]
    whole = assert_resumed_and_shared(train, firsts, halves)
    assert len(whole) == 2 * per_epoch
    later = _train(rule, epochs=range(1, 2), first=3)
    for one, other in zip(whole[per_epoch + 3 :], later, strict=True):
        assert_same(one, other)

    epochs = [whole[:per_epoch], whole[per_epoch:]]
    places = [np.concatenate([b.index[b.present] for b in epoch]) for epoch in epochs]
    assert [len(epoch) for epoch in places] == [len(LABELS)] * 2
    assert not np.array_equal(*places)
    sampler = sampling.sampler(_data(rule), EXAMPLES.labels)
    expected = sampler(np.random.default_rng([3, 1, 1]))
    np.testing.assert_array_equal(places[1], expected)
    tail = np.concatenate([b.labels[b.present] for b in whole]) == 5
    assert 0.1 < tail.mean() < 0.3  # of the class that has one example


def test_an_order_is_kept_for_the_epoch_and_by_the_sampler():
    samplers = [
        sampling.sampler(_data("balanced"), labels) for labels in (LABELS, LABELS[::-1])
    ]
    draw = functools.partial(loader.order, 0, 0, len(LABELS), 1)
    assert draw(samplers[0]) is draw(samplers[0])
    assert not np.array_equal(draw(samplers[0]), draw(samplers[1]))
    with pytest.raises(ValueError, match="read-only"):
        draw(samplers[0])[0] = 1


def test_an_example_that_comes_again_is_moved_otherwise():
    """On the host by its place in the batch, on the device by how often it came."""
    batch = next(b for b in _train("class_aware") if np.sum(b.labels == 5) >= 4)
    moved = batch.inputs[batch.labels == 5]
    assert len(np.unique(moved, axis=0)) > 1

    index = np.array([4, 2, 4, 0, 4, 0, 0], np.int32)
    present = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    batch = Batch(np.zeros((7, 1)), index, present, index)
    found = steps._repeats(batch, None)
    np.testing.assert_array_equal(found[present], [0, 0, 1, 0, 2])
    pad = Batch(*(np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)) for x in batch[:4]))
    halves = jax.tree.map(lambda x: jnp.reshape(x, (2, 4, *x.shape[1:])), pad)
    spread = jax.vmap(lambda half: steps._repeats(half, "i"), axis_name="i")(halves)
    np.testing.assert_array_equal(spread.reshape(-1)[:5], found[:5])

    imdb = configs.Run(data=configs.Data(source="imdb"), model=configs.Model("bilstm"))
    key = jax.random.key(0)
    _, keys = steps._prepared(imdb, batch, key, None)
    once, _ = jax.random.split(key)
    expected = [jax.random.fold_in(once, i) for i in index[:2]]
    assert [keys[0], keys[1]] == expected  # as ever
    assert len({tuple(map(int, jax.random.key_data(k))) for k in keys[:5]}) == 5
