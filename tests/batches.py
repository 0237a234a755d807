"""What holds of the batches of a training, whatever the examples are."""

import chex
import numpy as np


def assert_same(first, second):
    """Whether the columns of two batches are the same, dtypes included."""
    chex.assert_trees_all_equal(tuple(first[:4]), tuple(second[:4]), strict=True)


def assert_resumed_and_shared(train, firsts, parts):
    """Batches are the same where a training resumes, and where hosts make rows of them.

    Args:
      train: makes batches, of `first` on, or of `rows`.
      firsts: batches at which to resume.
      parts: rows of each host.

    Returns:
      The batches.
    """
    whole = list(train())
    for first in firsts:
        for one, other in zip(whole[first:], train(first=first), strict=True):
            assert_same(one, other)
    shares = [train(rows=rows) for rows in parts]
    for batch, *rows in zip(whole, *shares, strict=True):
        columns = zip(*(row[:4] for row in rows), strict=True)
        assert_same(batch, [np.concatenate(column) for column in columns])
    return whole
