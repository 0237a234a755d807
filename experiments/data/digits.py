"""The handwritten digits of scikit-learn, which come without splits."""

import functools
import pathlib

import numpy as np

from experiments import configs
from experiments.data.types import Dataset, Examples


@functools.cache
def digits() -> Examples:
    """The 1,797 handwritten digits of 8 × 8 pixels that scikit-learn carries.

    Inputs are float32 `[1797, 8, 8, 1]` in [0, 1]. Read-only, since every caller gets
    the same.

    References:
      Alpaydin and Kaynak, `Optical Recognition of Handwritten Digits
      <https://doi.org/10.24432/C50P49>`_, UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits  # a second of imports

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[..., np.newaxis]
    labels = data.target.astype(np.int32)
    images.flags.writeable = labels.flags.writeable = False
    return Examples(images, labels)


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Loads the digits, whatever the directory; see `datasets`."""
    return Dataset(digits(), test=None, validation=None)
