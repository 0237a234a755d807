"""Loads the data sets of `registry.DATASETS`: NumPy arrays, or lists of image files.

Each has a module with a function::

    load(data: configs.Data, data_dir: pathlib.Path, *, download: bool) -> Dataset

`data.source` says which data set, `data.partial` whether fewer examples than published
are accepted; what each record must be is checked all the same. With `download` TFDS may
fetch what is missing, where it knows the data set. Nothing is held out, subsampled or
relabelled, except that COVID-LT, which is drawn from two collections, has its long tail
already. It raises MissingData where the data set is not there, with the remedy, and
DamagedData where it is not what was published, naming the file and the line. Nothing is
unpickled, and no path in a list leads out of the data set's directory.
"""

import contextlib
import contextvars
import dataclasses
import importlib
import pathlib
from collections.abc import Iterator

from experiments import configs
from experiments.data.types import Dataset, MissingData

# What has been read, while someone wants it remembered.
_read: contextvars.ContextVar[dict[object, Dataset] | None] = contextvars.ContextVar(
    "read", default=None
)


def load(
    data: configs.Data, data_dir: pathlib.Path | None, *, download: bool = False
) -> Dataset:
    """Loads a data set and checks that it is what was published.

    Args:
      data: which, and whether a part of it is accepted.
      data_dir: where data sets are. TFDS's own directory for CIFAR and IMDB; for image
        files see `image_lists`, `covid` and `clothing1m`. Not needed for digits.
      download: whether TFDS may fetch what is missing, which takes TensorFlow.

    Returns:
      Its splits.

    Raises:
      MissingData: it is not there; says what to do.
      DamagedData: it is not what was published; names the file and the line.
    """
    directory = data.info.directory
    if directory and data_dir is None:
        raise MissingData(
            f"{data.source} is read from a directory: give --data-dir, the one that "
            f"holds {directory}/."
        )
    data_dir = (data_dir or pathlib.Path()).expanduser()
    module = importlib.import_module(f"experiments.data.{data.info.module}")
    remembered = _read.get()
    if remembered is None:
        return module.load(data, data_dir, download=download)
    # Runs that are compared differ in these, which are not looked at here.
    alike = dataclasses.replace(data, sampling="shuffled", meta_per_class=0)
    key = (alike, data_dir)
    if key not in remembered:
        remembered.clear()  # one is enough, and they are large
        remembered[key] = module.load(data, data_dir, download=download)
    return remembered[key]


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within it, what was read last is not read again; files must not change."""
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)
