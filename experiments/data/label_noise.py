"""Label noise: rules that flip labels, as pure functions of labels and a generator.

`symmetric_noise` takes a `numpy.random.Generator` and serves any data set. The rules
with a source in their name (`_sce`, `_gce`, `_author_code`) take a
`numpy.random.RandomState` and draw from it in the order in which the published code
draws from its own, so that the same seed flips the same labels; that NumPy keeps the
streams of `RandomState` is the promise of its NEP 19. No rule touches NumPy's global
state.

Every rule takes labels, int `[examples]` in 0 ... classes - 1, which it does not
change; a rate; and a generator, which it advances. It returns the noisy labels, of the
same shape and dtype, and which of them are wrong, bool `[examples]`. ValueError for
classes that the rule does not fit. A `Generator` in place of a `RandomState` would draw
others.

The sources: SCE is Wang et al., `Symmetric cross entropy for robust learning with noisy
labels <https://arxiv.org/abs/1908.06112>`_, with the code
https://github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels; SCE-PyTorch is
its port https://github.com/HanxunH/SCELoss-Reproduce; GCE is
https://github.com/AlanChou/Truncated-Loss, unofficial code with the settings of Zhang
and Sabuncu, `Generalized cross entropy loss for training deep neural networks with
noisy labels <https://arxiv.org/abs/1805.07836>`_; the author code is ABSGD's,
https://github.com/qiqi-helloworld/ABSGD, whose noise descends from SCE-PyTorch and
departs from SCE's own for asymmetric noise. SCE-PyTorch and the author code seed with
the run's seed (123) before they build the data set; SCE's labels are those of 123 when
nothing that it imports draws after it has seeded.
"""

import functools
from collections.abc import Callable

import numpy as np

from experiments import configs
from experiments.data import _check

# CIFAR-10: truck to automobile, bird to airplane, cat to dog, dog to cat, deer to
# horse. SCE and the author code go through the sources in this order, and it decides
# the draws.
_CIFAR10_FLIPS = ((9, 1), (2, 0), (3, 5), (5, 3), (4, 7))

# All public code takes five consecutive fine labels for a superclass of CIFAR-100. In
# the data set they are not: its fine labels are in alphabetical order.
_BLOCK = 5

Noisy = tuple[np.ndarray, np.ndarray]  # labels, and which of them are wrong


def rule(data: configs.Data, rng: np.random.Generator) -> Callable[[np.ndarray], Noisy]:
    """The rule of a config, with its rate and generator bound.

    A `corruption_seed` gives the published labels; without it, each call of the rule
    advances the generator.
    """
    seed = data.corruption_seed
    # The published rules draw from the older kind of generator.
    published = np.random.RandomState(rng.bit_generator if seed is None else seed)
    bind = functools.partial
    flip: Callable[..., Noisy]
    match data.noise, data.source:
        case "symmetric", _:
            flip = bind(symmetric_noise, classes=data.classes, rng=rng)
        case "symmetric_sce", _:
            flip = bind(symmetric_noise_sce, classes=data.classes, rng=published)
        case "symmetric_gce", _:
            flip = bind(symmetric_noise_gce, classes=data.classes, rng=published)
        case "asymmetric_sce", "cifar10":
            flip = bind(asymmetric_cifar10, of_clean=True, rng=published)
        case "asymmetric_author_code", "cifar10":
            flip = bind(asymmetric_cifar10, of_clean=False, rng=published)
        case "asymmetric_author_code", _:  # cifar100
            flip = bind(asymmetric_cifar100_author_code, rng=published)
        case _:  # asymmetric_sce, cifar100
            # The source draws pairs by its seed, and labels by 0 whatever the seed.
            # Validation has the same pairs, drawn again from the same state.
            pairs = published.randint(2**32, dtype=np.uint32) if seed is None else seed
            labels_rng = published if seed is None else np.random.RandomState(0)
            return lambda labels: asymmetric_cifar100_sce(
                labels, data.noise_rate, np.random.RandomState(pairs), labels_rng
            )
    return bind(flip, rate=data.noise_rate)


def symmetric_noise(
    labels: np.ndarray, rate: float, classes: int, rng: np.random.Generator
) -> Noisy:
    """Flips labels to one of the other classes, uniformly.

    Of the n_c labels of a class exactly `int(rate · n_c)` are flipped, each to another
    class, so that the rate is exact.

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
) -> Noisy:
    """Symmetric noise of SCE, SCE-PyTorch and the author code: as many of every class.

    `int(int(rate · examples) / classes)` labels of each class are flipped, drawn
    without replacement; then each, in that order, becomes one of the other classes,
    uniformly. On CIFAR the rate is exact in every class: 1,000 or 2,000 of a class of
    CIFAR-10, 100 or 200 of CIFAR-100. On unequal classes the number, not the fraction,
    is the same; `symmetric_noise` keeps the fraction.

    `RandomState(123)` gives the sources' labels, see above.
    """
    per_class = int(int(rate * len(labels)) / classes)
    chosen = []
    for label in range(classes):
        indices = np.flatnonzero(labels == label)
        _check.enough(label, len(indices), per_class)
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
) -> Noisy:
    """Symmetric noise of the GCE code: every label is drawn independently.

    It stays with probability `1 - rate` and becomes each other class with probability
    `rate / (classes - 1)`, so the number of wrong labels is random: binomial, with the
    mean that `symmetric_noise_sce` has exactly.

    Draws label by label; `RandomState(0)` gives the source's labels, whatever the seed
    of its run.
    """
    transitions = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(transitions, 1.0 - rate)
    return _drawn_anew(labels, transitions, rng)


def asymmetric_cifar10(
    labels: np.ndarray, rate: float, rng: np.random.RandomState, *, of_clean: bool
) -> Noisy:
    """Asymmetric CIFAR-10 noise, of SCE (`of_clean`) or of the author code.

    Truck (9) to automobile (1), bird (2) to airplane (0), cat (3) to dog (5), dog to
    cat, deer (4) to horse (7), in the order 9, 2, 3, 5, 4: of each of these five
    classes `int(rate · n_c)`. SCE picks from the clean labels, so that exactly half of
    `rate` is wrong overall.

    The author code picks from what bears the label by then: the dogs include cats that
    have just become dogs, `int(rate · pool)` of that pool becomes cats, and a cat that
    comes back so is right again. The share that is wrong at the end: of trucks, birds
    and deer exactly `rate`; in expectation, of dogs `rate`, of cats
    `rate · (1 - rate)`, 16 % or 24 % at a rate of 0.2 or 0.4, and of all 9.6 % or
    18.4 %, where SCE has exactly 10 % or 20 %.

    `RandomState(123)` gives the sources' labels, see above; the author code's are those
    of SCE-PyTorch. SCE has the rate as a whole number of per cent.

    Examples:
      >>> labels = np.arange(1000) % 10
      >>> flip = functools.partial(asymmetric_cifar10, labels, 0.4)
      >>> noisy, _ = flip(np.random.RandomState(123), of_clean=True)
      >>> np.bincount(noisy).tolist()
      [140, 140, 60, 100, 60, 100, 100, 140, 100, 60]

      When dogs are flipped, 140 examples have that label; 56 of them become cats:

      >>> noisy, _ = flip(np.random.RandomState(123), of_clean=False)
      >>> np.bincount(noisy).tolist()
      [140, 140, 60, 116, 60, 84, 100, 140, 100, 60]
    """
    noisy = labels.copy()
    for source, target in _CIFAR10_FLIPS:
        indices = np.flatnonzero((labels if of_clean else noisy) == source)
        if len(indices):  # `choice` refuses even to choose nothing from none
            count = int(rate * len(indices))
            noisy[rng.choice(indices, count, replace=False)] = target
    return noisy, noisy != labels


def asymmetric_cifar100_sce(
    labels: np.ndarray,
    rate: float,
    pair_rng: np.random.RandomState,
    rng: np.random.RandomState,
    classes: int = 100,
) -> Noisy:
    """Asymmetric CIFAR-100 noise of SCE: one pair of classes swapped in every block.

    A block is five consecutive labels, which the sources take for a superclass and
    which is none. In each, two classes are drawn; a label of either becomes the other
    with probability `rate`. Three classes of five stay clean, so 2/5 of `rate` is wrong
    overall, where the author code has `rate` (`asymmetric_cifar100_author_code`).

    The source has two generators: `RandomState(123)`, its global one, for the pairs,
    and `RandomState(0)` for the labels.

    Examples:
      >>> labels = np.arange(10)
      >>> rngs = np.random.RandomState(123), np.random.RandomState(0)
      >>> noisy, wrong = asymmetric_cifar100_sce(labels, 1.0, *rngs, classes=10)
      >>> noisy.tolist()
      [0, 3, 2, 1, 4, 9, 6, 7, 8, 5]
    """
    transitions = np.eye(classes)
    for first in range(0, classes, _BLOCK):
        one, other = first + pair_rng.choice(_BLOCK, 2, replace=False)
        transitions[one, one] = transitions[other, other] = 1.0 - rate
        transitions[one, other] = transitions[other, one] = rate
    return _drawn_anew(labels, transitions, rng)


def asymmetric_cifar100_author_code(
    labels: np.ndarray,
    rate: float,
    rng: np.random.RandomState,
    classes: int = 100,
) -> Noisy:
    """Asymmetric CIFAR-100 noise of the author code: every block rotated.

    A block is five consecutive labels, which the sources take for a superclass and
    which is none. A label becomes the next of its block, the last the first, with
    probability `rate`. All classes are noisy, where SCE has two of five noisy
    (`asymmetric_cifar100_sce`).

    Draws label by label; `RandomState(123)` gives the labels of the author code and of
    SCE-PyTorch.

    Examples:
      >>> labels = np.arange(10)
      >>> rng = np.random.RandomState(123)
      >>> noisy, _ = asymmetric_cifar100_author_code(labels, 1.0, rng, classes=10)
      >>> noisy.tolist()
      [1, 2, 3, 4, 0, 6, 7, 8, 9, 5]
    """
    transitions = np.diag(np.full(classes, 1.0 - rate))
    for first in range(0, classes, _BLOCK):
        block = first + np.arange(_BLOCK)
        transitions[block, np.roll(block, -1)] = rate
    return _drawn_anew(labels, transitions, rng)


def _drawn_anew(
    labels: np.ndarray, transitions: np.ndarray, rng: np.random.RandomState
) -> Noisy:
    """Draws every label from its row of `transitions`."""
    # From NumPy 2.5 on classes of probability 0 use up random numbers too, and the
    # published labels would come out otherwise: only the last may be among them.
    last = len(transitions) - 1
    possible = [np.union1d(np.flatnonzero(row), last) for row in transitions]
    noisy = labels.copy()
    # One draw per label, as in the sources: no vectorised draw has their stream.
    # Takes 0.1 s for the 50,000 labels of CIFAR.
    for i, label in enumerate(labels):
        at = possible[label]
        noisy[i] = at[rng.multinomial(1, transitions[label, at]).argmax()]
    return noisy, noisy != labels
