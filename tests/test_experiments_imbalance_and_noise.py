"""The published long tails, steps and wrong labels: counts, laws, draws, refusals."""

import functools
import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState

from experiments import cli, commands, configs
from experiments.data.imbalance import (
    long_tail_counts,
    scale_counts,
    select,
    step_counts,
    subsample,
)
from experiments.data.label_noise import (
    asymmetric_cifar10,
    asymmetric_cifar100_author_code,
    asymmetric_cifar100_sce,
    symmetric_noise_gce,
    symmetric_noise_sce,
)
from experiments.data.sampling import effective_number_probabilities
from tests.trees import write_csv

CAT, DEER, DOG, BIRD, TRUCK = 3, 4, 5, 2, 9
FLIPS = {TRUCK: 1, BIRD: 0, CAT: DOG, DOG: CAT, DEER: 7}


def _balanced(classes):
    """50,000 labels, as many of each class as CIFAR has, and not to be written to."""
    labels = np.repeat(np.arange(classes), 50_000 // classes)
    labels = RandomState(7).permutation(labels).astype(np.uint8)
    labels.flags.writeable = False
    return labels


CIFAR10, CIFAR100 = _balanced(10), _balanced(100)

bind = functools.partial
asymmetric_sce = bind(asymmetric_cifar10, of_clean=True)
asymmetric_author_code = bind(asymmetric_cifar10, of_clean=False)
# Labels, the rule, and the published seed of its generator.
NOISES = {
    "sce symmetric 10": (CIFAR10, bind(symmetric_noise_sce, classes=10), 123),
    "sce symmetric 100": (CIFAR100, bind(symmetric_noise_sce, classes=100), 123),
    "gce symmetric 10": (CIFAR10, bind(symmetric_noise_gce, classes=10), 0),
    "gce symmetric 100": (CIFAR100, bind(symmetric_noise_gce, classes=100), 0),
    "sce asymmetric 10": (CIFAR10, asymmetric_sce, 123),
    "author asymmetric 10": (CIFAR10, asymmetric_author_code, 123),
    "sce asymmetric 100": (
        CIFAR100,
        lambda y, rate, rng: asymmetric_cifar100_sce(y, rate, RandomState(123), rng),
        0,
    ),
    "author asymmetric 100": (CIFAR100, asymmetric_cifar100_author_code, 123),
}


@pytest.fixture(autouse=True)
def _the_global_generator_is_left_alone():
    before = np.random.get_state()
    yield
    after = np.random.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]


def _digest(array):
    return hashlib.sha256(array.astype("<i4").tobytes()).hexdigest()


# Counts.


@pytest.mark.parametrize(
    ("rule", "arguments", "counts"),
    [
        (
            long_tail_counts, (5000, 10, 100),
            [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
        ),
        (
            long_tail_counts, (5000, 10, 10),
            [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
        ),
        (step_counts, (5000, 10, 100), [5000] * 5 + [50] * 5),
        (step_counts, (5000, 10, 10), [5000] * 5 + [500] * 5),
        (step_counts, (500, 100, 100), [500] * 50 + [5] * 50),
        (step_counts, (500, 100, 10), [500] * 50 + [50] * 50),
        # The minority of an odd number of classes has one more.
        (step_counts, (100, 5, 4), [100] * 2 + [25] * 3),
    ],
)  # fmt: skip
def test_counts_of_the_published_sets(rule, arguments, counts):
    """Those of IMDB and of COVID-LT are in the docstrings."""
    assert rule(*arguments) == counts


@pytest.mark.parametrize(
    ("ratio", "digest"), [(100, "52ca9e99b84162df"), (10, "c8b24e147fbb190c")]
)
def test_counts_of_the_published_sets_of_a_hundred_classes(ratio, digest):
    counts = np.array(long_tail_counts(500, 100, ratio))
    assert _digest(counts).startswith(digest)


@given(head=st.integers(200, 60_000), ratio=st.sampled_from([10, 20, 50, 100, 200]))
def test_step_counts_are_the_published_product(head, ratio):
    assert step_counts(head, 2, ratio)[1] == int(head * (1.0 / ratio))


@given(head=st.integers(1, 10_000))
def test_a_ratio_that_leaves_one_example_leaves_one(head):
    assert step_counts(head, 2, head) == [head, 1]


def test_a_step_that_leaves_no_example_is_refused():
    message = "A ratio of 100 leaves no example of a minority class"
    with pytest.raises(ValueError, match=message):
        step_counts(50, 10, 100)


@given(
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
    total=st.integers(0, 20_000),
)
def test_scaled_counts_keep_the_sum_the_order_and_the_proportions(counts, total):
    exact = [count * total / sum(counts) for count in counts]
    try:
        scaled = scale_counts(counts, total)
    except ValueError:
        assert min(exact) < 1.0
        return
    assert sum(scaled) == total
    assert all(abs(s - e) < 1.0 for s, e in zip(scaled, exact, strict=True))
    for i, j in zip(range(len(counts)), range(1, len(counts)), strict=False):
        if counts[i] > counts[j]:
            assert scaled[i] >= scaled[j]


def test_counts_that_do_not_scale_are_refused():
    message = "A total of 10 leaves no example of class 1, which has 2 of 100"
    with pytest.raises(ValueError, match=message):
        scale_counts([98, 2], 10)


@pytest.mark.parametrize("meta", [0, 3])
def test_a_total_is_of_what_there_is_but_for_a_meta_set(meta):
    """Of 80 examples of each of ten classes, half of which keep all."""
    labels = np.repeat(np.arange(10), 80 - meta)
    of = lambda total: configs.Data(
        imbalance="step",
        imbalance_ratio=10.0,
        total=total,
        meta_per_class=meta,
        test_per_class=50,
    )
    kept = subsample(labels, of(440), np.random.default_rng(0))
    expected = [80 - meta] * 5 + [8] * 5
    assert np.bincount(labels[kept]).tolist() == expected
    with pytest.raises(
        ValueError, match=r"of 441 takes 81 .* of class 0, which has 80"
    ):
        subsample(labels, of(441), np.random.default_rng(0))


# Selection.


# Of a transcription of LDAM's loop, with the global generator seeded with 0.
@pytest.mark.parametrize(
    ("ratio", "digest"),
    [
        (10, "a364fc587751387b33df7065f1a0c7e501b750704a459bd39794cf47f77488e4"),
        (20, "99bf211ff4a9b5bc116eeafed6faaee68227ffffe089bad8d6593899309f1619"),
        (50, "9e804caf4e4b0947620e2314febce8fde5ca58a376348924877326557fb3ce70"),
        (100, "b6a148d6a7616e07426b16ac6f66796d87c4b59738e9a96228a8dc99ae42dabb"),
        (200, "ddbb46d9b39c3cbce2e21c77ab1947d39b59db9c60e423314d603f3163b65787"),
    ],
)
def test_the_published_selection_image_for_image(ratio, digest):
    counts = long_tail_counts(5000, 10, ratio)
    chosen = select(CIFAR10, counts, RandomState(0))
    assert chosen.dtype == np.int64
    assert _digest(chosen) == digest


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_published_selection_takes_the_counts_and_nests(sizes, seed, data):
    labels = RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    labels.flags.writeable = False
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    fewer = [count // 2 for count in counts]
    chosen = select(labels, counts, RandomState(seed))
    assert np.bincount(labels[chosen], minlength=len(sizes)).tolist() == counts
    assert len(set(chosen)) == len(chosen)
    assert (np.diff(labels[chosen]) >= 0).all()
    assert set(select(labels, fewer, RandomState(seed))) <= set(chosen)


def test_the_generator_of_the_selection_is_advanced_and_decides():
    labels, rng = np.arange(400) % 4, RandomState(5)
    first, second = (select(labels, [9] * 4, rng) for _ in range(2))
    again = select(labels, [9] * 4, RandomState(5))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(second)


def test_a_class_too_small_to_select_from_is_refused():
    with pytest.raises(ValueError, match="Class 1 has 2 examples, fewer than 3"):
        select(np.array([0, 1, 1]), [1, 3], RandomState(0))


# Resampling.


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=6),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.9999]),
    seed=st.integers(0, 99),
)
def test_probabilities_are_one_over_the_effective_number(sizes, beta, seed):
    labels = RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    labels.flags.writeable = False
    p = effective_number_probabilities(labels, beta)
    assert p.shape == labels.shape
    assert p.dtype == np.float64
    assert p.sum() == pytest.approx(1.0, rel=1e-12)
    # The effective number as the geometric series that it is: no cancellation.
    effective = np.array([math.fsum(beta**k for k in range(n)) for n in sizes])
    expected = (1.0 / effective)[labels]
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-9)


def test_probabilities_in_the_limits_of_beta():
    labels = np.repeat([4, 7], [90, 10])  # no class need be there
    np.testing.assert_array_equal(effective_number_probabilities(labels, 0.0), 0.01)
    p = effective_number_probabilities(labels, 1.0 - 2.0**-50)
    assert p[labels == 7].sum() == pytest.approx(0.5, rel=1e-12)
    assert effective_number_probabilities(labels[:0]).shape == (0,)


# Noise: what all rules share.


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_seeded_and_says_what_is_wrong(name):
    labels, noise, _ = NOISES[name]
    labels = labels[:5000]  # writing to them would raise
    noisy, wrong = noise(labels, 0.4, rng=RandomState(3))
    assert noisy.dtype == labels.dtype
    assert noisy.shape == labels.shape
    assert not np.shares_memory(noisy, labels)
    assert wrong.dtype == bool
    np.testing.assert_array_equal(wrong, noisy != labels)
    again, other = (noise(labels, 0.4, rng=RandomState(seed))[0] for seed in (3, 4))
    np.testing.assert_array_equal(noisy, again)
    assert (noisy != other).any()

    noisy, wrong = noise(labels, 0.0, rng=RandomState(3))
    np.testing.assert_array_equal(noisy, labels)
    assert not wrong.any()
    noisy, wrong = noise(labels[:0], 0.4, rng=RandomState(3))
    assert noisy.shape == wrong.shape == (0,)


# Of a transcription of each source's loops, with its seeds and generators.
@pytest.mark.parametrize(
    ("name", "rate", "digest"),
    [
        ("sce symmetric 10", 0.2, "7bd7fdde95d93ea3"),
        ("sce symmetric 10", 0.4, "d63c85238c880267"),
        ("sce symmetric 100", 0.2, "015029d23251e0d5"),
        ("sce symmetric 100", 0.4, "35487838061ed277"),
        ("gce symmetric 10", 0.2, "9ec7c4f1119e5c82"),
        ("gce symmetric 10", 0.4, "71b20943ce714b30"),
        ("gce symmetric 100", 0.4, "26ce60b371d43406"),
        ("sce asymmetric 10", 0.2, "c765f23bc1cf9435"),
        ("sce asymmetric 10", 0.4, "a3ae3cc0f5aa5675"),
        ("author asymmetric 10", 0.2, "6634397f0a49481e"),
        ("author asymmetric 10", 0.4, "9ffdacbac1a2f8b7"),
        ("sce asymmetric 100", 0.2, "f5532e070f8e4b3f"),
        ("sce asymmetric 100", 0.4, "d27b5aba2c1afcaf"),
        ("author asymmetric 100", 0.2, "7bf7353703fe5a60"),
        ("author asymmetric 100", 0.4, "05ef0a758abefd9b"),
    ],
)
def test_the_published_labels_are_those_bit_for_bit(name, rate, digest):
    labels, noise, seed = NOISES[name]
    noisy, wrong = noise(labels, rate, rng=RandomState(seed))
    np.testing.assert_array_equal(wrong, noisy != labels)
    assert _digest(noisy).startswith(digest)


# Symmetric noise.


@given(
    per_class=st.integers(0, 40),
    classes=st.integers(2, 8),
    rate=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_symmetric_noise_of_sce_draws_what_one_call_per_example_draws(
    per_class, classes, rate, seed
):
    labels = RandomState(seed).permutation(np.repeat(np.arange(classes), per_class))
    labels.flags.writeable = False
    noisy, wrong = symmetric_noise_sce(labels, rate, classes, RandomState(seed))
    share = int(int(rate * len(labels)) / classes)
    assert all(wrong[labels == label].sum() == share for label in range(classes))
    if share == 0:
        return
    rng, expected = RandomState(seed), labels.copy()
    flipped = [
        rng.choice(np.flatnonzero(labels == label), share, replace=False)
        for label in range(classes)
    ]
    for index in np.concatenate(flipped):
        expected[index] = rng.choice(
            [label for label in range(classes) if label != labels[index]]
        )
    np.testing.assert_array_equal(noisy, expected)


def test_symmetric_noise_of_too_few_examples_is_refused():
    labels = np.repeat([0, 1], [90, 10])
    with pytest.raises(ValueError, match="Class 1 has 10 examples, fewer than 20"):
        symmetric_noise_sce(labels, 0.4, 2, RandomState(0))


# Asymmetric noise of CIFAR-10.


def test_asymmetric_cifar10_at_rate_one():
    noisy, _ = asymmetric_sce(CIFAR10, 1.0, RandomState(0))
    became = [FLIPS.get(label, label) for label in range(10)]
    np.testing.assert_array_equal(noisy, np.take(became, CIFAR10))
    # Every cat becomes a dog, and every dog, those cats among them, a cat.
    noisy, _ = asymmetric_author_code(CIFAR10, 1.0, RandomState(0))
    became[CAT] = CAT
    np.testing.assert_array_equal(noisy, np.take(became, CIFAR10))


@given(
    sizes=st.lists(st.integers(0, 40), min_size=10, max_size=10),
    rate=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_asymmetric_cifar10_of_unequal_and_absent_classes(sizes, rate, seed):
    labels = np.repeat(np.arange(10), sizes)
    labels.flags.writeable = False
    expected = Counter(
        {source: int(rate * sizes[source]) for source in FLIPS}  # of clean labels
    )
    _, wrong = asymmetric_sce(labels, rate, RandomState(seed))
    assert Counter(labels[wrong].tolist()) == +expected
    noisy, wrong = asymmetric_author_code(labels, rate, RandomState(seed))
    for source in (TRUCK, BIRD, DEER):
        assert wrong[labels == source].sum() == expected[source]
    pool = sizes[DOG] + expected[CAT]
    assert (noisy == DOG).sum() == pool - int(rate * pool)


# Asymmetric noise of CIFAR-100.


def test_asymmetric_cifar100_at_rate_one():
    labels = np.arange(15)
    noisy, _ = asymmetric_cifar100_author_code(labels, 1.0, RandomState(0), classes=15)
    assert noisy.tolist() == [1, 2, 3, 4, 0, 6, 7, 8, 9, 5, 11, 12, 13, 14, 10]
    pairs = set()
    for seed in range(60):
        noisy, wrong = asymmetric_cifar100_sce(
            labels, 1.0, RandomState(seed), RandomState(0), classes=15
        )
        np.testing.assert_array_equal(noisy[noisy], labels)  # a swap undoes itself
        assert wrong.reshape(3, 5).sum(axis=1).tolist() == [2, 2, 2]
        pairs.add(tuple(np.flatnonzero(wrong[:5])))
    assert len(pairs) == 10  # of five classes every pair comes up


def test_the_pairs_do_not_depend_on_the_labels_generator():
    moves = []
    for seed in (0, 1):
        noisy, wrong = asymmetric_cifar100_sce(
            CIFAR100, 0.4, RandomState(123), RandomState(seed)
        )
        moves.append(set(zip(CIFAR100[wrong], noisy[wrong], strict=True)))
    assert moves[0] == moves[1]


# Your own data, which may be imbalanced already.


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "It keeps at most a 30 (of 30), b 10 (of 70). --data.scarce-first turns"),
        ({"scarce_first": True}, ""),
        ({"imbalance_ratio": 1.0}, ""),
    ],
)
def test_an_imbalance_that_makes_other_classes_rare_is_said(
    more, said, tmp_path, capsys
):
    rows = [["x", "y"], *([n, "a" if n < 30 else "b"] for n in range(100))]
    path = write_csv(tmp_path / "table.csv", rows)
    data = configs.Data(
        "table", path=str(path), **{"imbalance_ratio": 3.0, "imbalance": "step"} | more
    )
    run = configs.Run(data, configs.Model("mlp"))
    cli._resolved(commands.Train(run))
    found = capsys.readouterr().err
    assert said in found
    assert bool(said) == bool(found)
