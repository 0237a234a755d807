"""Sources, corruption and batches: NumPy, seeded, pure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import configs, corrupt, pipeline, sources


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


def test_digits_are_the_whole_set_in_unit_range(digits):
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.float32
    assert digits.images.min() == 0.0
    assert digits.images.max() == 1.0
    assert digits.labels.dtype == np.int32
    assert np.bincount(digits.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    ]  # fmt: skip


def _split(labels, seed):
    return sources.split(
        labels,
        np.random.default_rng(seed),
        validation_per_class=20,
        test_per_class=50,
    )


def test_splits_are_disjoint_complete_and_stratified(digits):
    parts = _split(digits.labels, 3)
    together = np.concatenate(parts)
    assert sorted(together) == list(range(1797))
    assert np.bincount(digits.labels[parts.validation]).tolist() == [20] * 10
    assert np.bincount(digits.labels[parts.test]).tolist() == [50] * 10


def test_splits_are_seeded_and_share_the_test_set(digits):
    first, again, other = (_split(digits.labels, seed) for seed in (0, 0, 1))
    for part, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(part, repeated)
    np.testing.assert_array_equal(first.test, other.test)
    assert set(first.validation) != set(other.validation)


def test_a_class_too_small_to_split_is_refused():
    with pytest.raises(ValueError, match="smallest class has 70 examples"):
        _split(np.repeat([0, 1], [90, 70]), 0)


# Counts of the paper's four long-tailed CIFAR sets.
@pytest.mark.parametrize(
    ("head", "ratio", "counts"),
    [
        (5000, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (5000, 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
    ],
)
def test_long_tail_counts_of_cifar10(head, ratio, counts):
    assert corrupt.long_tail_counts(head, 10, ratio) == counts


@pytest.mark.parametrize(
    ("ratio", "first", "last", "total"),
    [
        (100, [500, 477, 455, 434], [6, 5, 5, 5, 5], 10847),
        (10, [500, 488, 477, 466], [52, 51, 50], 19573),
    ],
)
def test_long_tail_counts_of_cifar100(ratio, first, last, total):
    counts = corrupt.long_tail_counts(500, 100, ratio)
    assert counts[: len(first)] == first
    assert counts[-len(last) :] == last
    assert sum(counts) == total


@given(
    head=st.integers(100, 5000), classes=st.integers(2, 50), ratio=st.floats(1.0, 90.0)
)
def test_long_tail_counts_fall_from_head_to_head_over_ratio(head, classes, ratio):
    counts = corrupt.long_tail_counts(head, classes, ratio)
    assert len(counts) == classes
    assert counts[0] == head
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == pytest.approx(head / ratio, abs=1.0)


def test_long_tail_counts_refuse_an_empty_class():
    with pytest.raises(ValueError, match="no example of the last class"):
        corrupt.long_tail_counts(50, 10, 100)


def test_select_takes_the_counts_and_is_seeded():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 30))
    first, again, other = (
        corrupt.select(labels, [30, 7, 2], np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert np.bincount(labels[first]).tolist() == [30, 7, 2]
    assert len(set(first)) == 39
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    with pytest.raises(ValueError, match="Class 1 has 30 examples, fewer than 31"):
        corrupt.select(labels, [1, 31], np.random.default_rng(0))


@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=8),
    rate=st.floats(0.0, 0.99),
    seed=st.integers(0, 99),
)
def test_symmetric_noise_strikes_exactly_and_never_keeps_a_label(counts, rate, seed):
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = labels.copy()
    noisy, wrong = corrupt.symmetric_noise(
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
    again, _ = corrupt.symmetric_noise(
        labels, rate, len(counts), np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(noisy, again)


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels = np.full(40_000, 2)
    noisy, _ = corrupt.symmetric_noise(labels, 0.5, 5, np.random.default_rng(0))
    counts = np.bincount(noisy, minlength=5)
    assert counts[2] == 20_000
    # Four standard deviations of a binomial with 20,000 draws and p = 1/4.
    assert np.abs(counts[[0, 1, 3, 4]] - 5000).max() < 4 * np.sqrt(20_000 * 3 / 16)


def test_the_task_of_the_long_tail():
    data = configs.LONG_TAIL.run.data
    task = pipeline.task(data, 10, seed=4)
    counts = np.bincount(task.train.labels).tolist()
    assert counts == corrupt.long_tail_counts(counts[0], 10, 50.0)
    assert counts[0] == 104  # all of the smallest class that is not held out
    assert np.bincount(task.validation.labels).tolist() == [20] * 10
    assert not task.mislabelled.any()


def test_the_task_of_label_noise():
    data = configs.LABEL_NOISE.run.data
    clean = pipeline.task(configs.Data(), 10, seed=4)
    noisy = pipeline.task(data, 10, seed=4)
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    np.testing.assert_array_equal(
        noisy.mislabelled, noisy.train.labels != clean.train.labels
    )
    assert noisy.mislabelled.mean() == pytest.approx(0.4, abs=0.01)
    # Validation is no cleaner than training; the test set is.
    assert np.sum(noisy.validation.labels != clean.validation.labels) == 80
    np.testing.assert_array_equal(noisy.test.labels, clean.test.labels)


def test_shift_moves_whole_images_and_is_seeded(digits):
    images = digits.images[:50]
    shifted, again, other = (
        pipeline.shift(images, 1, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(shifted, again)
    assert (shifted != other).any()
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(50):
        windows = [
            padded[i, top : top + 8, left : left + 8]
            for top in range(3)
            for left in range(3)
        ]
        assert any((shifted[i] == window).all() for window in windows)
    np.testing.assert_array_equal(
        pipeline.shift(images, 0, np.random.default_rng(0)), images
    )


@given(n=st.integers(1, 40), batch_size=st.integers(1, 16))
def test_batches_hold_every_example_once_and_mark_padding(n, batch_size):
    labels = np.arange(1, n + 1, dtype=np.int32)
    images = np.tile(labels[:, None, None, None], (1, 2, 2, 1)).astype(np.float32)
    batches = list(pipeline.batches(sources.Examples(images, labels), batch_size))
    assert len(batches) == -(-n // batch_size)
    for batch in batches:
        assert batch.images.shape == (batch_size, 2, 2, 1)
        assert batch.labels.shape == batch.present.shape == (batch_size,)
        assert batch.present.dtype == bool
        assert batch.images.dtype == np.float32
        np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels)
        np.testing.assert_array_equal(batch.present, batch.labels > 0)
    seen = np.concatenate([batch.labels[batch.present] for batch in batches])
    np.testing.assert_array_equal(seen, labels)
