"""From data sets to batches: splits, tasks, order, batches, prefetching."""

import functools
import hashlib
import itertools
import threading
import time

import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from experiments import configs
from experiments.data import datasets, imbalance, label_noise, loader, split
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.data.types import Dataset, Examples, Files
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL
from experiments.train import steps
from tests.batches import assert_resumed_and_shared, assert_same
from tests.programs import wait_until
from tests.test_experiments_imbalance_and_noise import NOISES
from tests.training_problem import abstract

DIGITS = configs.Data(validation_per_class=20, test_per_class=50)
MOVED = configs.Data(source="cifar100", crop_padding=4, flip=True, rotation=20.0)


# Splits and corruption that any data set can have.


def _split(labels, seed):
    return split.stratified(
        labels, np.random.default_rng(seed), validation_per_class=20, test_per_class=50
    )


def test_splits_are_disjoint_stratified_and_seeded_and_share_the_test_set():
    labels = digits().labels
    first, again, other = (_split(labels, seed) for seed in (0, 0, 1))
    assert sorted(np.concatenate(first)) == list(range(1797))
    assert np.bincount(labels[first.validation]).tolist() == [20] * 10
    assert np.bincount(labels[first.test]).tolist() == [50] * 10
    for part, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, repeated)
    np.testing.assert_array_equal(first.test, other.test)
    assert set(first.validation) != set(other.validation)
    with pytest.raises(ValueError, match="smallest class has 70 examples"):
        _split(np.repeat([0, 1], [90, 70]), 0)


@given(
    head=st.integers(100, 5000), classes=st.integers(2, 50), ratio=st.floats(1.0, 90.0)
)
def test_long_tail_counts_fall_from_head_to_head_over_ratio(head, classes, ratio):
    counts = imbalance.long_tail_counts(head, classes, ratio)
    assert len(counts) == classes
    assert counts[0] == head
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == pytest.approx(head / ratio, abs=1.0)
    with pytest.raises(ValueError, match="no example of the last class"):
        imbalance.long_tail_counts(head, classes, 2.0 * head)


@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=8),
    rate=st.floats(0.0, 0.99),
    seed=st.integers(0, 99),
)
def test_symmetric_noise_strikes_exactly_and_never_keeps_a_label(counts, rate, seed):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = labels.copy()
    noisy, wrong = label_noise.symmetric_noise(
        labels, rate, len(counts), np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(labels, before)  # pure
    assert noisy.dtype == labels.dtype
    np.testing.assert_array_equal(wrong, noisy != labels)
    for label, count in enumerate(counts):
        assert wrong[labels == label].sum() == int(rate * count)
    if len(labels):
        assert noisy.min() >= 0
        assert noisy.max() < len(counts)
    again, _ = label_noise.symmetric_noise(
        labels, rate, len(counts), np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(noisy, again)


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels = np.full(40_000, 2)
    noisy, _ = label_noise.symmetric_noise(labels, 0.5, 5, np.random.default_rng(0))
    counts = np.bincount(noisy, minlength=5)
    assert counts[2] == 20_000
    # Four standard deviations of a binomial with 20,000 draws and p = 1/4.
    assert np.abs(counts[[0, 1, 3, 4]] - 5000).max() < 4 * np.sqrt(20_000 * 3 / 16)


# Tasks.


def _numbered(labels):
    """Examples whose one pixel is their index."""
    indices = np.arange(len(labels), dtype=np.int32)
    return Examples(indices[:, None, None, None], labels.astype(np.int32))


def _indices(examples):
    return examples.inputs.ravel()


@pytest.fixture
def loads(monkeypatch):
    """Makes `datasets.load` give these splits."""

    def give(train, test=None, validation=None):
        loaded = Dataset(train, test, validation)
        monkeypatch.setattr(datasets, "load", lambda *_, download: loaded)

    return give


@pytest.fixture
def cifar(loads):
    """50,000 labels, as many of each class, in the place of CIFAR-10."""
    labels = RandomState(7).permutation(np.repeat(np.arange(10), 5000))
    train, test = _numbered(labels), _numbered(np.arange(100) % 10)
    loads(train, test)
    return Dataset(train, test, None)


def test_label_noise_of_the_digits():
    clean = load_task(DIGITS, seed=4)
    noisy = load_task(LABEL_NOISE.run.data, seed=4)
    np.testing.assert_array_equal(noisy.train.inputs, clean.train.inputs)
    np.testing.assert_array_equal(
        noisy.mislabelled, noisy.train.labels != clean.train.labels
    )
    assert noisy.mislabelled.mean() == pytest.approx(0.4, abs=0.01)
    assert noisy.class_counts.tolist() == np.bincount(noisy.train.labels).tolist()
    assert noisy.class_counts.tolist() != clean.class_counts.tolist()
    # Validation is no cleaner than training; the test set is.
    assert np.sum(noisy.validation.labels != clean.validation.labels) == 80
    np.testing.assert_array_equal(noisy.test.labels, clean.test.labels)


# Of what the demo has been drawing since it has been published.
@pytest.mark.parametrize(
    ("study", "digest"),
    [
        (LONG_TAIL, "c30b5bc80f860270de47550c840193ad84e94e268f8e90d9f035fbe725789c6a"),
        (
            LABEL_NOISE,
            "b6b41460975dd8efad74d1e4d0b922c2157ab569dded7fa91657f2d371a6a1f3",
        ),
    ],
)
def test_the_splits_of_the_demo_stay(study, digest):
    found = hashlib.sha256()
    for part in load_task(study.run.data, seed=1)[:3]:
        found.update(part.inputs.astype("<f4").tobytes())
        found.update(part.labels.astype("<i4").tobytes())
    assert found.hexdigest() == digest


def test_the_parts_of_a_task_are_disjoint(cifar):
    data = configs.Data(source="cifar10", validation_per_class=30, imbalance_ratio=10)
    task = load_task(data, seed=0)
    train, validation = _indices(task.train), _indices(task.validation)
    assert not set(train) & set(validation)
    assert len(set(train)) == len(train) == task.class_counts.sum()
    assert np.bincount(task.validation.labels).tolist() == [30] * 10
    assert task.class_counts.tolist() == imbalance.long_tail_counts(4970, 10, 10)
    for part in (task.train, task.validation):
        np.testing.assert_array_equal(part.labels, cifar.train.labels[_indices(part)])
    assert_same(task.test, cifar.test)


def test_a_corruption_seed_gives_the_published_long_tail(cifar):
    data = configs.Data(source="cifar10", imbalance_ratio=100.0, corruption_seed=0)
    task, again = (load_task(data, seed) for seed in (0, 1))
    assert_same(task.train, again.train)
    # Of a transcription of LDAM's loop; see the tests of `imbalance`.
    assert hashlib.sha256(_indices(task.train).astype("<i4")).hexdigest() == (
        "b6a148d6a7616e07426b16ac6f66796d87c4b59738e9a96228a8dc99ae42dabb"
    )


@pytest.mark.parametrize(
    ("source", "noise", "published"),
    [
        ("cifar10", "symmetric_sce", "sce symmetric 10"),
        ("cifar10", "symmetric_gce", "gce symmetric 10"),
        ("cifar10", "asymmetric_sce", "sce asymmetric 10"),
        ("cifar10", "asymmetric_author_code", "author asymmetric 10"),
        ("cifar100", "asymmetric_sce", "sce asymmetric 100"),
        ("cifar100", "asymmetric_author_code", "author asymmetric 100"),
    ],
)
def test_a_corruption_seed_gives_the_published_noise(loads, source, noise, published):
    labels, rule, _ = NOISES[published]
    classes = 10 if source == "cifar10" else 100
    train = _numbered(labels)
    loads(train, train.take(np.arange(classes)), train.take(np.arange(2000)))
    data = configs.Data(source, noise=noise, noise_rate=0.4, corruption_seed=123)
    task = load_task(data, seed=5)
    # One draws pairs of classes by the seed, and labels then by 0 whatever it is.
    seed = 0 if published == "sce asymmetric 100" else data.corruption_seed
    expected, wrong = rule(labels, 0.4, rng=RandomState(seed))
    np.testing.assert_array_equal(task.train.labels, expected)
    np.testing.assert_array_equal(task.mislabelled, wrong)
    if "asymmetric" in noise:  # the same classes are confused in validation
        moves, of_validation = (
            {(a, b) for a, b in zip(before, after, strict=True) if a != b}
            for before, after in (
                (labels, expected),
                (labels[:2000], task.validation.labels),
            )
        )
        assert of_validation <= moves
        assert len(of_validation) > 0.9 * len(moves)
    # Without one every seed draws its own, at the same rate.
    data = configs.replace(data, {"corruption_seed": None})
    first, again, other = (load_task(data, seed) for seed in (5, 5, 6))
    assert_same(first.train, again.train)
    assert (first.train.labels != other.train.labels).any()
    assert abs(first.mislabelled.mean() - wrong.mean()) < 0.04


def test_a_corruption_seed_fixes_the_digits_for_every_seed():
    changes = {"imbalance_ratio": 10.0, "noise_rate": 0.2}
    drawn = configs.replace(DIGITS, changes)
    fixed = configs.replace(drawn, {"corruption_seed": 3})
    for name in ("train", "validation", "test"):
        first, again = (getattr(load_task(fixed, s), name) for s in (0, 1))
        assert_same(first, again)
    first, other = (load_task(drawn, seed) for seed in (0, 1))
    assert set(first.train.inputs.ravel()) == set(other.train.inputs.ravel())
    assert (first.train.inputs != other.train.inputs).any()


def test_a_cap_on_the_examples_of_a_class(loads):
    labels = np.arange(70) % 7 % 5  # classes 0 and 1 have twice as many
    train, test = _numbered(labels), _numbered(np.arange(40) % 10)
    validation = _numbered(np.repeat(np.arange(10), 3))
    loads(train, test, validation)
    data = configs.Data(source="cifar10", examples_per_class=12)
    task = load_task(data, seed=0)
    assert task.class_counts.tolist() == [12, 12, 10, 10, 10, 0, 0, 0, 0, 0]
    assert (np.diff(_indices(task.train)) > 0).all()  # in the stored order
    assert_same(task.test, test)
    assert_same(task.validation, validation)  # the data set's own


def test_stored_images_are_averaged_to_the_size_that_the_network_gets(monkeypatch):
    stored = digits()
    counted = Examples((255 * stored.inputs).round().astype(np.uint8), stored.labels)
    for examples in (stored, counted):
        loaded = Dataset(examples, None, None)
        monkeypatch.setattr("experiments.data.digits.load", lambda *_, d=loaded: d)
        data = configs.Data(test_per_class=50, image_size=4)
        small = datasets.load(data, None).train.inputs
        assert (small.shape, small.dtype) == ((1797, 4, 4, 1), examples.inputs.dtype)
        corners = [examples.inputs[:, i::2, j::2] / 4.0 for i in (0, 1) for j in (0, 1)]
        rounding = 0.5 if small.dtype == np.uint8 else 1e-6
        np.testing.assert_allclose(small, sum(corners), rtol=0.0, atol=rounding)
        for model in (configs.Model("sce_cnn", widths=(4, 8)), configs.Model()):
            images = steps.prepare(data, small[:3])
            logits = nnx.eval_shape(lambda n, x: n(x), abstract(model, data), images)
            assert logits.shape == (3, 10)


def test_image_files_are_never_subsampled(loads):
    paths = np.array([f"{place}.jpg" for place in range(12)], np.dtypes.StringDType())
    labels = np.arange(12, dtype=np.int32) % 4
    train = Examples(Files("there", paths), labels)
    loads(train, train.take(np.arange(4)))
    data = configs.Data(source="covid_lt", image_size=8, imbalance_ratio=100.0)
    task = load_task(data, seed=0)
    assert task.train.inputs.paths.tolist() == paths.tolist()
    np.testing.assert_array_equal(task.train.labels, labels)
    data = configs.Data(source="clothing1m", image_size=8, validation_per_class=1)
    task = load_task(data, seed=0)
    held_out = set(task.validation.inputs.paths)
    assert len(held_out) == 4
    assert held_out | set(task.train.inputs.paths) == set(paths)
    assert task.class_counts.tolist() == [2] * 4 + [0] * 10


# Order and batches.


@given(seed=st.integers(0, 99), epoch=st.integers(0, 99), examples=st.integers(1, 60))
def test_an_order_is_a_permutation_and_pure(seed, epoch, examples):
    first = loader.order(seed, epoch, examples)
    assert sorted(first) == list(range(examples))
    loader.order.cache_clear()
    np.testing.assert_array_equal(loader.order(seed, epoch, examples), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_orders_differ_between_epochs_and_seeds():
    orders = [loader.order(*key, 50).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


@given(n=st.integers(1, 40), batch_size=st.integers(1, 16), epochs=st.integers(0, 3))
def test_every_example_comes_once_an_epoch_and_padding_is_zero(n, batch_size, epochs):
    labels = np.arange(1, n + 1, dtype=np.int32)
    inputs = np.tile(labels[:, None, None, None], (1, 2, 2, 1)).astype(np.float32)
    examples = Examples(inputs, labels)
    once = list(loader.batches(examples, DIGITS, batch_size))
    shuffled = list(
        loader.training(examples, DIGITS, batch_size, seed=0, epochs=range(epochs))
    )
    per_epoch = -(-n // batch_size)
    assert (len(once), len(shuffled)) == (per_epoch, epochs * per_epoch)
    for batch in once + shuffled:
        assert batch.inputs.shape == (batch_size, 2, 2, 1)
        dtypes = [column.dtype for column in batch[:4]]
        assert batch.meta is None
        assert dtypes == [np.float32, np.int32, bool, np.int32]
        np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0], batch.labels)
        np.testing.assert_array_equal(batch.present, batch.labels > 0)
        expected = np.where(batch.present, labels[batch.index], 0)
        np.testing.assert_array_equal(batch.labels, expected)
        assert (batch.index[~batch.present] == 0).all()
    seen = [np.concatenate([b.labels[b.present] for b in once])]
    np.testing.assert_array_equal(seen[0], labels)
    for epoch in range(epochs):
        part = shuffled[epoch * per_epoch : (epoch + 1) * per_epoch]
        seen = np.concatenate([batch.index[batch.present] for batch in part])
        np.testing.assert_array_equal(seen, loader.order(0, epoch, n))


@pytest.fixture(scope="module")
def colours():
    """100 images of noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    return Examples(images, np.arange(100, dtype=np.int32))


def _train(examples, data=MOVED, epochs=range(2), **options):
    return list(loader.training(examples, data, 32, seed=3, epochs=epochs, **options))


def test_a_training_resumes_anywhere_and_hosts_make_their_rows(colours):
    # The last two hosts have nothing but padding in the last batch of an epoch.
    parts = [slice(0, 4), slice(4, 16), slice(16, 32)]
    train = functools.partial(_train, colours)
    whole = assert_resumed_and_shared(train, (0, 1, 3, 8), parts)
    assert len(whole) == 8
    assert [batch.present[16:].any() for batch in whole] == [
        True,
        True,
        True,
        False,
    ] * 2
    for one, other in zip(whole[4:], _train(colours, epochs=range(1, 2)), strict=True):
        assert_same(one, other)
    assert _train(colours, epochs=range(1, 1)) == []


def test_batches_of_another_seed_or_epoch_are_moved_otherwise(colours):
    def moved(**changes):
        options = {"seed": 3, "epochs": range(1)} | changes
        batches = loader.training(colours, MOVED, 100, **options)
        batch = next(batches)
        return batch.inputs[np.argsort(batch.index)]

    images = [moved(), moved(seed=4), moved(epochs=range(1, 2))]
    for one, other in itertools.combinations(images, 2):
        assert (one != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_what_is_not_moved_here(colours):
    on_device = configs.replace(MOVED, {"augment_on": "device"})
    for batch in (*_train(colours, on_device), *loader.batches(colours, MOVED, 32)):
        here = batch.present
        np.testing.assert_array_equal(
            batch.inputs[here], colours.inputs[batch.index[here]]
        )
    words = Examples(np.arange(60, dtype=np.int32).reshape(20, 3), np.zeros(20, int))
    for batch in _train(words, configs.Data(source="imdb")):
        here = batch.present
        np.testing.assert_array_equal(
            batch.inputs[here], words.inputs[batch.index[here]]
        )
        assert batch.inputs.dtype == np.int32


# Prefetching.


class _Counted:
    """0, 1, 2, ..., and how many were asked for."""

    def __init__(self, end=10**9, pause=0.0):
        self.made, self.closed, self.end, self.pause = 0, False, end, pause

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.pause)
        if self.made == self.end:
            raise StopIteration
        self.made += 1
        return self.made - 1

    def close(self):
        self.closed = True


def test_prefetching_keeps_the_order_and_ends():
    source = _Counted(end=50)
    ahead = loader.Prefetched(source, 3, lambda number: -number)
    assert list(ahead) == [-number for number in range(50)]
    assert source.closed
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("size", [1, 3])
def test_prefetching_goes_so_far_ahead_and_no_further(size):
    source = _Counted()
    with loader.Prefetched(source, size, lambda number: number) as ahead:
        assert next(ahead) == 0
        wait_until(lambda: source.made == size + 1)
        time.sleep(0.02)
        assert source.made == size + 1


@pytest.mark.parametrize("where", ["source", "place"])
def test_an_exception_comes_in_its_place(where):
    def numbers():
        for number in range(10):
            if where == "source" and number == 2:
                raise ZeroDivisionError("two")
            yield number

    def place(number):
        if where == "place" and number == 2:
            raise ZeroDivisionError("two")
        return number

    ahead = loader.Prefetched(numbers(), 2, place)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="two"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_stops_the_thread_and_closes_the_source(taken):
    threads, source = threading.active_count(), _Counted()
    with loader.Prefetched(source, 2, lambda number: number) as ahead:
        assert [next(ahead) for _ in range(taken)] == list(range(taken))
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert source.closed
    assert source.made <= taken + 4
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()  # once more does no harm


def test_a_thread_does_not_outlive_its_consumer():
    threads, source = threading.active_count(), _Counted()
    ahead = loader.Prefetched(source, 2, lambda number: number)
    next(ahead)
    del ahead
    wait_until(lambda: threading.active_count() == threads)
    assert source.closed


def test_waiting_is_counted_and_nothing_else():
    with loader.Prefetched(_Counted(pause=0.05), 1, lambda number: number) as slow:
        for _ in range(4):
            next(slow)
        assert 0.15 < slow.waited < 10.0
    source = _Counted()
    with loader.Prefetched(source, 4, lambda number: number) as fast:
        wait_until(lambda: source.made == 4)
        began = fast.waited
        time.sleep(0.1)
        for _ in range(4):
            next(fast)
        assert fast.waited - began < slow.waited / 3
