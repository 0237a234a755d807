"""Class imbalance and label noise: pure functions of arrays and a generator.

There are two kinds of function. `select` and `symmetric_noise` take a
`numpy.random.Generator` and serve any data set. Those with a source in their name
(`_published`, `_sce`, `_gce`, `_author_code`) take a `numpy.random.RandomState` and
draw from it in the order in which the published code draws from its own, so that the
same seed selects the same images. Neither kind touches NumPy's global state.

The sources: LDAM is https://github.com/kaidic/LDAM-DRW; SCE is
https://github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels, and SCE-PyTorch
its port https://github.com/HanxunH/SCELoss-Reproduce; GCE is
https://github.com/AlanChou/Truncated-Loss; the author code is ABSGD's,
https://github.com/qiqi-helloworld/ABSGD, whose noise descends from SCE-PyTorch. That
NumPy keeps the streams of `RandomState` is the promise of its NEP 19.
"""

import math
from collections.abc import Sequence

import numpy as np

# CIFAR-10: truck to automobile, bird to airplane, cat to dog, dog to cat, deer to
# horse. SCE and the author code go through the sources in this order, and it decides
# the draws.
_CIFAR10_FLIPS = ((9, 1), (2, 0), (3, 5), (5, 3), (4, 7))
_CIFAR10_CLASSES = 10

# All public code takes five consecutive fine labels for a superclass of CIFAR-100. In
# the data set they are not: its fine labels are in alphabetical order.
_BLOCK = 5


def long_tail_counts(head_count: int, classes: int, ratio: float) -> list[int]:
    """Examples per class, falling exponentially from the first class to the last.

    `n_i = int(head_count · ratio^(−i / (classes − 1)))`, truncated toward zero, as in
    the paper and in LDAM's code. COVID-LT has the same formula; the totals that its
    text gives, 12,875 and 4,516, do not follow from it (see `scale_counts`).

    Args:
      head_count: examples of class 0.
      classes: number of classes, at least 2.
      ratio: examples of class 0 over those of the last class, at least 1.

    Returns:
      `classes` counts.

    Raises:
      ValueError: the last class would be empty.

    Examples:
      >>> long_tail_counts(5000, 10, 100)
      [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]

      COVID-LT, whose last class has 378 examples:

      >>> long_tail_counts(37_800, 4, 100), long_tail_counts(3_780, 4, 10)
      ([37800, 8143, 1754, 378], [3780, 1754, 814, 378])
    """
    # The exponent as the paper's code has it: 5000 * 0.01 ** 1.0 is 50 to the last bit,
    # and truncation makes such bits count.
    counts = [
        int(head_count * (1.0 / ratio) ** (i / (classes - 1.0))) for i in range(classes)
    ]
    if counts[-1] < 1:
        raise ValueError(
            f"A ratio of {ratio} leaves no example of the last class when the first "
            f"has {head_count}."
        )
    return counts


def step_counts(
    head_count: int, classes: int, ratio: float, minority_share: float = 0.5
) -> list[int]:
    """Examples per class: all of the first classes, few of the last.

    `n_i = head_count` for the majority, `int(head_count / ratio)` for the minority. The
    minority is `minority_share` of the classes, rounded up.

    Args:
      head_count: examples of each majority class.
      classes: number of classes, at least 2.
      ratio: examples of a majority class over those of a minority class, at least 1.
      minority_share: share of the classes that are small, the paper's μ, in (0, 1).

    Returns:
      `classes` counts, the majority first.

    Raises:
      ValueError: the ratio is below 1, the minority classes would be empty, or the
        share makes no minority or no majority.

    Examples:
      >>> step_counts(5000, 10, 100)
      [5000, 5000, 5000, 5000, 5000, 50, 50, 50, 50, 50]

      IMDB, where the minority is class 0, the negative reviews:

      >>> step_counts(12_500, 2, 10)[::-1]
      [1250, 12500]

    References:
      The step of LDAM's code, which has μ = 1/2 and leaves a class out when the classes
      are odd in number; μ is of Buda et al., `A systematic study of the class imbalance
      problem <https://arxiv.org/abs/1710.05381>`_.
    """
    if not ratio >= 1.0:
        raise ValueError(f"The ratio is {ratio}; it must be at least 1.")
    # Rounded first: 0.07 · 100 is a little more than 7 in floating point.
    minority = math.ceil(round(minority_share * classes, 9))
    if not 0 < minority < classes:
        raise ValueError(
            f"A minority share of {minority_share} makes {minority} of {classes} "
            "classes small; there must be small and large ones."
        )
    # Divided, where the published code multiplies by 1 / ratio: the same for 10, 20,
    # 50, 100 and 200, while 49 · (1 / 49) falls short of 1.
    tail_count = int(head_count / ratio)
    if tail_count < 1:
        raise ValueError(
            f"A ratio of {ratio} leaves no example of a minority class when the "
            f"majority has {head_count}."
        )
    return [head_count] * (classes - minority) + [tail_count] * minority


def scale_counts(counts: Sequence[int], total: int) -> list[int]:
    """Counts in the same proportions with another sum.

    Each is `counts_i · total / sum(counts)`, rounded down, and the examples that
    rounding leaves over go to the largest remainders (of equal ones, to the first
    class).

    The text on COVID-LT gives totals that its formula does not; this makes sets of the
    text's size and the formula's ratio. How the text came by its totals is not known,
    so the counts are ours.

    Args:
      counts: examples per class, non-negative.
      total: what they are to sum to.

    Returns:
      As many counts, with sum `total`.

    Raises:
      ValueError: there are no examples to scale, or a class would lose its last one.

    Examples:
      >>> scale_counts(long_tail_counts(37_800, 4, 100), 12_875)
      [10123, 2181, 470, 101]
      >>> scale_counts(long_tail_counts(3_780, 4, 10), 4_516)
      [2538, 1178, 546, 254]
    """
    whole = sum(counts)
    if whole < 1 or min(counts) < 0:
        raise ValueError(
            f"The counts are {list(counts)}; none may be negative, nor all zero."
        )
    # In integers, so that the sum is exact.
    scaled = [count * total // whole for count in counts]
    remainders = [count * total % whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(scaled)]:
        scaled[i] += 1
    for label, (before, after) in enumerate(zip(counts, scaled, strict=True)):
        if after < min(before, 1):
            raise ValueError(
                f"A total of {total} leaves no example of class {label}, which has "
                f"{before} of {whole}."
            )
    return scaled


def select(
    labels: np.ndarray, counts: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """A random subsample with a given number of examples of each class.

    Args:
      labels: int `[examples]`.
      counts: number of examples of class 0, 1, ...
      rng: random numbers; advanced.

    Returns:
      Indices of the examples, int64 `[sum(counts)]`, grouped by class.

    Raises:
      ValueError: a class has fewer examples than asked for.

    Examples:
      >>> labels = np.array([0, 1, 0, 1, 0, 1])
      >>> chosen = select(labels, [3, 1], np.random.default_rng(0))
      >>> labels[chosen].tolist()
      [0, 0, 0, 1]
    """
    chosen = []
    for label, count in enumerate(counts):
        indices = np.flatnonzero(labels == label)
        _check_enough(label, len(indices), count)
        chosen.append(rng.permutation(indices)[:count])
    return np.concatenate(chosen)


def select_published(
    labels: np.ndarray, counts: Sequence[int], rng: np.random.RandomState
) -> np.ndarray:
    """The examples that the published long-tailed and step CIFAR sets keep.

    For the classes in increasing order: shuffle the class's indices, keep the first
    `counts[class]`. One generator serves all classes, so a class's choice depends on
    the sizes of the classes before it, though not on how many of them are kept: with
    the same seed a longer tail's set lies within a shorter one's.

    With `RandomState(0)` and the labels of CIFAR in torchvision's order of training
    (five batches one after another), image for image those of LDAM's code. All training
    seeds share that set.

    Args:
      labels: int `[examples]`, below `len(counts)`; not changed.
      counts: how many of class 0, 1, ..., every class of the labels.
      rng: decides which, and is advanced; `RandomState(0)` for the published sets.

    Returns:
      Indices of the examples, int64 `[sum(counts)]`, grouped by class, in each class in
      the order of its shuffle.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, or a class has fewer examples
        than asked for.

    Examples:
      >>> labels = np.array([0, 1, 0, 1, 0, 1])
      >>> select_published(labels, [2, 1], np.random.RandomState(0)).tolist()
      [4, 2, 5]

    References:
      Cao et al., `Learning imbalanced datasets with label-distribution-aware margin
      loss <https://arxiv.org/abs/1906.07413>`_, and its code.
    """
    _check(labels, len(counts), rng)
    chosen = []
    for label, count in enumerate(counts):
        indices = np.flatnonzero(labels == label)
        _check_enough(label, len(indices), count)
        rng.shuffle(indices)
        chosen.append(indices[:count])
    return np.concatenate(chosen)


def effective_number_probabilities(
    labels: np.ndarray, beta: float = 0.9999
) -> np.ndarray:
    """The probability of each example when classes are resampled.

    `p_i ∝ (1 − β) / (1 − β^n)`, n the examples of i's class: one over the effective
    number of its class. An epoch is as many draws, with replacement, as there are
    examples.

    `β = 0` draws all examples alike, `β → 1` all classes alike.

    Args:
      labels: int `[examples]`; not changed.
      beta: overlap between examples, in [0, 1).

    Returns:
      float64 `[examples]`, with sum 1.

    Raises:
      ValueError: labels of another shape or type, or `beta` outside [0, 1).

    Examples:
      >>> labels = np.repeat([0, 1], [900, 100])
      >>> p = effective_number_probabilities(labels)
      >>> round(float(p[labels == 1].sum() / p[labels == 0].sum()), 3)
      0.961
      >>> drawn = np.random.default_rng(0).choice(1000, 1000, p=p)
      >>> bool(abs(labels[drawn].mean() - 0.49) < 0.05)
      True

    References:
      The sampler of LDAM's code, where the option never reaches the loader, so that
      "resampling" there trains on all examples alike; the number is of Cui et al.,
      `Class-balanced loss based on effective number of samples
      <https://arxiv.org/abs/1901.05555>`_.
    """
    _check_labels(labels)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta is {beta}; it must be in [0, 1).")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # expm1, since 1 − β^n loses its digits as β nears 1. The factor 1 − β is common to
    # all classes, so it drops out.
    log_beta = math.log(beta) if beta > 0.0 else -math.inf
    weights = (-1.0 / np.expm1(counts * log_beta))[classes]
    return weights / weights.sum()


def symmetric_noise(
    labels: np.ndarray, rate: float, classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flips labels to one of the other classes, uniformly.

    Of the n_c labels of a class exactly `int(rate · n_c)` are flipped, each to another
    class, so that the rate is exact.

    Args:
      labels: int `[examples]`, in 0 ... classes - 1; not changed.
      rate: share of each class, in [0, 1).
      classes: number of classes.
      rng: decides which, and what they become.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Examples:
      >>> labels = np.repeat([0, 1, 2], 10)
      >>> noisy, wrong = symmetric_noise(labels, 0.4, 3, np.random.default_rng(0))
      >>> np.bincount(labels[wrong]).tolist()
      [4, 4, 4]
    """
    noisy = labels.copy()
    for label in range(classes):
        indices = rng.permutation(np.flatnonzero(labels == label))
        flipped = indices[: int(rate * len(indices))]
        # Going 1 to classes - 1 steps round the circle reaches every other class.
        steps = rng.integers(1, classes, len(flipped))
        noisy[flipped] = (label + steps) % classes
    return noisy, noisy != labels


def symmetric_noise_sce(
    labels: np.ndarray, rate: float, classes: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric noise of SCE, SCE-PyTorch and the author code: as many of every class.

    `int(int(rate · examples) / classes)` labels of each class are flipped, drawn
    without replacement; then each, in that order, becomes one of the other classes,
    uniformly. On CIFAR the rate is exact in every class: 1,000 or 2,000 of a class of
    CIFAR-10, 100 or 200 of CIFAR-100. On unequal classes the number, not the fraction,
    is the same; `symmetric_noise` keeps the fraction.

    Draws as the sources do. `RandomState(123)` gives the labels of SCE-PyTorch and of
    the author code, which seed with the run's seed (123) before they build the data
    set, and those of SCE when nothing that it imports draws after it has seeded.

    Args:
      labels: int `[examples]`, in 0 ... classes - 1; not changed.
      rate: share of all examples, in [0, 1].
      classes: number of classes, at least 2.
      rng: decides which, and what they become; is advanced.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, a rate outside [0, 1], fewer
        than 2 classes, or a class has fewer examples than are to be flipped.

    Examples:
      >>> labels = np.arange(30) % 3
      >>> noisy, wrong = symmetric_noise_sce(labels, 0.4, 3, np.random.RandomState(123))
      >>> np.bincount(labels[wrong]).tolist()
      [4, 4, 4]

    References:
      Wang et al., `Symmetric cross entropy for robust learning with noisy labels
      <https://arxiv.org/abs/1908.06112>`_, and its code.
    """
    _check(labels, classes, rng, rate)
    _check_others(classes)
    per_class = int(int(rate * len(labels)) / classes)
    chosen = []
    for label in range(classes):
        indices = np.flatnonzero(labels == label)
        _check_enough(label, len(indices), per_class)
        if per_class:  # an absent class has nothing to choose from
            chosen.append(rng.choice(indices, per_class, replace=False))
    noisy = labels.copy()
    if chosen:
        flipped = np.concatenate(chosen)
        # Which of the others, in increasing order with the label itself left out. One
        # call draws what the sources' one call per example does.
        others = rng.randint(0, classes - 1, len(flipped))
        noisy[flipped] = others + (others >= labels[flipped])
    return noisy, noisy != labels


def symmetric_noise_gce(
    labels: np.ndarray, rate: float, classes: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric noise of the GCE code: every label is drawn independently.

    It stays with probability `1 - rate` and becomes each other class with probability
    `rate / (classes - 1)`, so the number of wrong labels is random: binomial, with the
    mean that `symmetric_noise_sce` has exactly.

    Draws as the source does, label by label; `RandomState(0)` gives its labels,
    whatever the seed of its run.

    Args:
      labels: int `[examples]`, in 0 ... classes - 1; not changed.
      rate: probability of a wrong label, in [0, 1].
      classes: number of classes, at least 2.
      rng: decides which, and what they become; is advanced.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, a rate outside [0, 1], or
        fewer than 2 classes.

    Examples:
      >>> labels = np.arange(1000) % 10
      >>> _, wrong = symmetric_noise_gce(labels, 0.4, 10, np.random.RandomState(0))
      >>> bool(abs(wrong.mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 1000))
      True

    References:
      Zhang and Sabuncu, `Generalized cross entropy loss for training deep neural
      networks with noisy labels <https://arxiv.org/abs/1805.07836>`_; the code is
      unofficial and follows the paper's settings.
    """
    _check(labels, classes, rng, rate)
    _check_others(classes)
    transitions = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(transitions, 1.0 - rate)
    return _drawn_anew(labels, transitions, rng)


def asymmetric_cifar10_sce(
    labels: np.ndarray, rate: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric CIFAR-10 noise of SCE: flipped labels are picked from the clean ones.

    Truck (9) to automobile (1), bird (2) to airplane (0), cat (3) to dog (5), dog to
    cat, deer (4) to horse (7): of each of these five classes exactly `int(rate · n_c)`,
    so that half of `rate` is wrong overall. The author code picks otherwise, see
    `asymmetric_cifar10_author_code`.

    Draws as the source does; `RandomState(123)` gives its labels when nothing that it
    imports draws after it has seeded. It has the rate as a whole number of per cent.

    Args:
      labels: int `[examples]`, clean, in 0 ... 9; not changed.
      rate: share of each of the five classes, in [0, 1].
      rng: decides which; is advanced.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, or a rate outside [0, 1].

    Examples:
      >>> labels = np.arange(1000) % 10
      >>> noisy, wrong = asymmetric_cifar10_sce(labels, 0.4, np.random.RandomState(123))
      >>> np.bincount(labels[wrong], minlength=10).tolist()
      [0, 0, 40, 40, 40, 40, 0, 0, 0, 40]
      >>> np.bincount(noisy).tolist()
      [140, 140, 60, 100, 60, 100, 100, 140, 100, 60]

    References:
      Wang et al., `Symmetric cross entropy for robust learning with noisy labels
      <https://arxiv.org/abs/1908.06112>`_, and its code.
    """
    _check(labels, _CIFAR10_CLASSES, rng, rate)
    noisy = labels.copy()
    for source, target in _CIFAR10_FLIPS:
        noisy[_share(np.flatnonzero(labels == source), rate, rng)] = target
    return noisy, noisy != labels


def asymmetric_cifar10_author_code(
    labels: np.ndarray, rate: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric CIFAR-10 noise of the author code: picked from labels already flipped.

    The map is `asymmetric_cifar10_sce`'s, and so are the sources' order (9, 2, 3, 5, 4)
    and the share of each. But each source is what bears its label by then: the dogs
    include cats that have just become dogs, `int(rate · pool)` of that pool becomes
    cats, and a cat that comes back so is right again.

    The share that is wrong at the end: of trucks, birds and deer exactly `rate`; in
    expectation, of dogs `rate`, of cats `rate · (1 - rate)`, 16 % or 24 % at a rate of
    0.2 or 0.4, and of all 9.6 % or 18.4 %, where SCE has exactly 10 % or 20 %.

    Draws as the source does. `RandomState(123)` gives its labels, and SCE-PyTorch's:
    they seed with the run's seed (123) before they build the data set.

    Args:
      labels: int `[examples]`, clean, in 0 ... 9; not changed.
      rate: share of each pool, in [0, 1].
      rng: decides which; is advanced.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, or a rate outside [0, 1].

    Examples:
      >>> labels = np.arange(1000) % 10
      >>> rng = np.random.RandomState(123)
      >>> noisy, wrong = asymmetric_cifar10_author_code(labels, 0.4, rng)

      When dogs are flipped, 140 examples have that label; 56 of them become cats:

      >>> np.bincount(noisy).tolist()
      [140, 140, 60, 116, 60, 84, 100, 140, 100, 60]
      >>> bool(wrong.mean() < 0.2)
      True

    References:
      The code of ABSGD and of SCE-PyTorch, which departs here from SCE's own.
    """
    _check(labels, _CIFAR10_CLASSES, rng, rate)
    noisy = labels.copy()
    for source, target in _CIFAR10_FLIPS:
        noisy[_share(np.flatnonzero(noisy == source), rate, rng)] = target
    return noisy, noisy != labels


def asymmetric_cifar100_sce(
    labels: np.ndarray,
    rate: float,
    pair_rng: np.random.RandomState,
    rng: np.random.RandomState,
    classes: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric CIFAR-100 noise of SCE: one pair of classes swapped in every block.

    A block is five consecutive labels, which the sources take for a superclass and
    which is none. In each, two classes are drawn; a label of either becomes the other
    with probability `rate`. Three classes of five stay clean, so 2/5 of `rate` is wrong
    overall, where the author code has `rate` (`asymmetric_cifar100_author_code`).

    Draws as the source does, which has two generators: `RandomState(123)`, its global
    one, for the pairs, when nothing that it imports draws after it has seeded, and
    `RandomState(0)` for the labels.

    Args:
      labels: int `[examples]`, clean, in 0 ... classes - 1; not changed.
      rate: probability of a flip in a drawn class, in [0, 1].
      pair_rng: decides on the pairs; is advanced.
      rng: decides which labels flip; is advanced.
      classes: number of classes, a multiple of 5.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: a generator is not a `RandomState`.
      ValueError: labels of another shape, type or range, a rate outside [0, 1], or
        classes that do not make blocks of five.

    Examples:
      >>> labels = np.arange(10)
      >>> rngs = np.random.RandomState(123), np.random.RandomState(0)
      >>> noisy, wrong = asymmetric_cifar100_sce(labels, 1.0, *rngs, classes=10)
      >>> noisy.tolist()
      [0, 3, 2, 1, 4, 9, 6, 7, 8, 5]

    References:
      Wang et al., `Symmetric cross entropy for robust learning with noisy labels
      <https://arxiv.org/abs/1908.06112>`_, and its code.
    """
    _check(labels, classes, rng, rate)
    _check_rng(pair_rng)
    blocks = _blocks(classes)
    transitions = np.eye(classes)
    for first in blocks:
        one, other = first + pair_rng.choice(_BLOCK, 2, replace=False)
        transitions[one, one] = transitions[other, other] = 1.0 - rate
        transitions[one, other] = transitions[other, one] = rate
    return _drawn_anew(labels, transitions, rng)


def asymmetric_cifar100_author_code(
    labels: np.ndarray,
    rate: float,
    rng: np.random.RandomState,
    classes: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric CIFAR-100 noise of the author code: every block rotated.

    A block is five consecutive labels, which the sources take for a superclass and
    which is none. A label becomes the next of its block, the last the first, with
    probability `rate`. All classes are noisy, where SCE has two of five noisy
    (`asymmetric_cifar100_sce`).

    Draws as the source does, label by label. `RandomState(123)`, of the run's seed
    (123), gives its labels, and SCE-PyTorch's.

    Args:
      labels: int `[examples]`, clean, in 0 ... classes - 1; not changed.
      rate: probability of a wrong label, in [0, 1].
      rng: decides which; is advanced.
      classes: number of classes, a multiple of 5.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.

    Raises:
      TypeError: `rng` is not a `RandomState`.
      ValueError: labels of another shape, type or range, a rate outside [0, 1], or
        classes that do not make blocks of five.

    Examples:
      >>> labels = np.arange(10)
      >>> rng = np.random.RandomState(123)
      >>> noisy, _ = asymmetric_cifar100_author_code(labels, 1.0, rng, classes=10)
      >>> noisy.tolist()
      [1, 2, 3, 4, 0, 6, 7, 8, 9, 5]

    References:
      The code of ABSGD and of SCE-PyTorch, which departs here from SCE's own.
    """
    _check(labels, classes, rng, rate)
    blocks = _blocks(classes)
    transitions = np.diag(np.full(classes, 1.0 - rate))
    for first in blocks:
        block = first + np.arange(_BLOCK)
        transitions[block, np.roll(block, -1)] = rate
    return _drawn_anew(labels, transitions, rng)


def _share(indices: np.ndarray, rate: float, rng: np.random.RandomState) -> np.ndarray:
    """A random `int(rate · n)` of n indices."""
    count = int(rate * len(indices))
    # An empty set is one that `choice` refuses even to choose nothing from.
    return rng.choice(indices, count, replace=False) if len(indices) else indices


def _drawn_anew(
    labels: np.ndarray, transitions: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws every label from its row of `transitions`."""
    noisy = labels.copy()
    # One draw per label, as in the sources: no vectorised draw has their stream.
    # Takes 0.1 s for the 50,000 labels of CIFAR.
    for i, label in enumerate(labels):
        noisy[i] = _one_of(transitions[label], rng)
    return noisy, noisy != labels


def _blocks(classes: int) -> range:
    """The first class of every block of five."""
    if classes < 1 or classes % _BLOCK:
        raise ValueError(f"{classes} classes do not make blocks of {_BLOCK}.")
    return range(0, classes, _BLOCK)


def _check(
    labels: np.ndarray, classes: int, rng: np.random.RandomState, rate: float = 0.0
) -> None:
    """Refuses labels, rates and generators that the published rules do not cover."""
    _check_rng(rng)
    _check_labels(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"The labels run from {labels.min()} to {labels.max()}; they must be in "
            f"0 ... {classes - 1}."
        )
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The rate is {rate}; it must be in [0, 1].")


def _check_rng(rng: np.random.RandomState) -> None:
    """Refuses a generator with another stream than the published ones."""
    # A Generator has most of the same methods, and would silently draw other examples.
    if not isinstance(rng, np.random.RandomState):
        raise TypeError(
            f"The generator is a {type(rng).__name__}; the published sets are drawn "
            "with a numpy.random.RandomState."
        )


def _check_labels(labels: np.ndarray) -> None:
    """Refuses what is not a vector of integers."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"The labels are {labels.dtype} {list(labels.shape)}; they must be "
            "integers [examples]."
        )


def _check_others(classes: int) -> None:
    """Refuses symmetric noise where there is no other class."""
    if classes < 2:
        raise ValueError(f"Symmetric noise needs 2 classes or more, not {classes}.")


def _check_enough(label: int, examples: int, count: int) -> None:
    """Refuses to take more examples of a class than it has."""
    if examples < count:
        raise ValueError(f"Class {label} has {examples} examples, fewer than {count}.")


def _one_of(probabilities: np.ndarray, rng: np.random.RandomState) -> int:
    """`rng.multinomial(1, probabilities).argmax()`, as NumPy drew it up to 2.4.

    From 2.5 on the classes of probability 0 use up random numbers too, so that the
    published labels would come out otherwise.
    """
    possible = np.flatnonzero(probabilities)
    rest = 1.0
    for index in possible[possible < len(probabilities) - 1]:
        if rng.binomial(1, min(probabilities[index] / rest, 1.0)):
            return int(index)
        rest -= probabilities[index]
    return len(probabilities) - 1
