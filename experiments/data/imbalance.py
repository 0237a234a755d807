"""Class imbalance: the counts of long tails and steps, and the examples that are kept.

`select` takes a `numpy.random.Generator`, or a `numpy.random.RandomState`, from which
it draws in the order of LDAM's code (https://github.com/kaidic/LDAM-DRW), so that the
same seed keeps the same images; that NumPy keeps the streams of `RandomState` is the
promise of its NEP 19. It does not touch NumPy's global state.

Counts are examples per class, in the order of the classes; a selection is the indices
of the examples that are kept, int64 `[sum(counts)]`, grouped by class. Every function
raises ValueError where a class would be empty, or has fewer examples than asked for.
"""

from collections.abc import Sequence

import numpy as np

from experiments import configs
from experiments.data import _check


def subsample(
    labels: np.ndarray, data: configs.Data, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the examples that the imbalanced set of a config keeps.

    With a `corruption_seed` the selection is the published one, else the generator's.
    The counts are those without a meta set, which has left the labels, as far as there
    are so many: only the most frequent classes then have fewer.
    """
    available = np.bincount(labels, minlength=data.classes)
    counts = _counts(data, available + data.meta_per_class)
    counts = np.minimum(counts, available).tolist()
    seed = data.corruption_seed
    return select(labels, counts, rng if seed is None else np.random.RandomState(seed))


def reordered(data: configs.Data) -> str:
    """What to say of your own data of which other classes become the rare ones.

    That is where a class has fewer examples than another before, and more after the
    subsampling; "" where there is none. The data are as `datasets.resolve` returns.
    """
    if data.imbalance_ratio == 1.0 or data.contents is None:
        return ""
    before = np.array(data.contents.class_sizes)
    after = np.array(_counts(data, before))
    if not ((before[:, None] < before) & (after[:, None] > after)).any():
        return ""
    most = 10
    shown = [
        f"{name} {a:,} (of {b:,})"
        for name, b, a in zip(data.class_names, before, after, strict=True)
    ]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (
        f"--data.imbalance-ratio {data.imbalance_ratio:g} makes other classes rare "
        "than those that are rare in your data, since it goes by the order of the "
        f"classes. It keeps at most {', '.join(shown[:most])}{more}. "
        f"--data.{'no-' * data.scarce_first}scarce-first turns the order round; a "
        "ratio of 1 keeps all examples."
    )


def _counts(data: configs.Data, available: np.ndarray) -> list[int]:
    """Examples of each class that a config keeps, of those that there are.

    ValueError where its total asks for more.
    """
    rule = {"long_tail": long_tail_counts, "step": step_counts}[data.imbalance]
    counts = rule(int(available.min()), data.classes, data.imbalance_ratio)
    if data.total is not None:
        counts = scale_counts(counts, data.total)
    counts = counts[::-1] if data.scarce_first else counts
    for label, (count, there) in enumerate(zip(counts, available, strict=True)):
        if count > there:
            raise ValueError(
                f"A total of {data.total} takes {count} examples of class {label}, "
                f"which has {there}."
            )
    return counts


def long_tail_counts(head_count: int, classes: int, ratio: float) -> list[int]:
    """Examples per class, falling exponentially from the first class to the last.

    `n_i = int(head_count · ratio^(−i / (classes − 1)))`, truncated toward zero, as in
    the paper and in LDAM's code. COVID-LT has the same formula; the totals that its
    text gives, 12,875 and 4,516, do not follow from it (see `scale_counts`).

    There are at least two classes, and the ratio is at least 1.

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


def step_counts(head_count: int, classes: int, ratio: float) -> list[int]:
    """Examples per class: all of the first half of the classes, few of the last half.

    `n_i = head_count` for the majority, `int(head_count / ratio)` for the minority,
    which has one class more where their number is odd. There are at least two classes,
    and the ratio is at least 1.

    Examples:
      >>> step_counts(5000, 10, 100)
      [5000, 5000, 5000, 5000, 5000, 50, 50, 50, 50, 50]

      IMDB, where the minority is class 0, the negative reviews:

      >>> step_counts(12_500, 2, 10)[::-1]
      [1250, 12500]

    References:
      The step of LDAM's code, which leaves a class out when the classes are odd in
      number.
    """
    # Divided, where the published code multiplies by 1 / ratio: the same for 10, 20,
    # 50, 100 and 200, while 49 · (1 / 49) falls short of 1.
    tail_count = int(head_count / ratio)
    if tail_count < 1:
        raise ValueError(
            f"A ratio of {ratio} leaves no example of a minority class when the "
            f"majority has {head_count}."
        )
    return [head_count] * (classes // 2) + [tail_count] * (classes - classes // 2)


def scale_counts(counts: Sequence[int], total: int) -> list[int]:
    """Counts in the same proportions with another sum.

    Each is `counts_i · total / sum(counts)`, rounded down, and the examples that
    rounding leaves over go to the largest remainders (of equal ones, to the first
    class).

    The text on COVID-LT gives totals that its formula does not; this makes sets of the
    text's size and the formula's ratio. How the text came by its totals is not known,
    so the counts are ours.

    Examples:
      >>> scale_counts(long_tail_counts(37_800, 4, 100), 12_875)
      [10123, 2181, 470, 101]
      >>> scale_counts(long_tail_counts(3_780, 4, 10), 4_516)
      [2538, 1178, 546, 254]
    """
    whole = sum(counts)
    # In integers, so that the sum is exact.
    scaled = [count * total // whole for count in counts]
    remainders = [count * total % whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: -remainders[i])
    for i in by_remainder[: total - sum(scaled)]:
        scaled[i] += 1
    for label, (before, after) in enumerate(zip(counts, scaled, strict=True)):
        if after < 1:
            raise ValueError(
                f"A total of {total} leaves no example of class {label}, which has "
                f"{before} of {whole}."
            )
    return scaled


def select(
    labels: np.ndarray,
    counts: Sequence[int],
    rng: np.random.Generator | np.random.RandomState,
) -> np.ndarray:
    """A random subsample with a given number of examples of class 0, 1, ...

    For the classes in increasing order: shuffle the class's indices, keep the first
    `counts[class]`. One generator serves all classes, so a class's choice depends on
    the sizes of the classes before it, though not on how many of them are kept: with
    the same seed a longer tail's set lies within a shorter one's.

    With `RandomState(0)` and the labels of CIFAR in torchvision's order of training
    (five batches one after another), image for image those of LDAM's code. All training
    seeds share that set.

    Examples:
      >>> labels = np.array([0, 1, 0, 1, 0, 1])
      >>> select(labels, [2, 1], np.random.RandomState(0)).tolist()
      [4, 2, 5]

    References:
      Cao et al., `Learning imbalanced datasets with label-distribution-aware margin
      loss <https://arxiv.org/abs/1906.07413>`_, and its code.
    """
    chosen = []
    for label, count in enumerate(counts):
        indices = np.flatnonzero(labels == label)
        _check.enough(label, len(indices), count)
        chosen.append(rng.permutation(indices)[:count])
    return np.concatenate(chosen)
