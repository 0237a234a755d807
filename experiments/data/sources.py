"""Data sets, read and checked: NumPy arrays, or lists of image files.

Nothing here is unpickled, and no path in a list leads out of the data set's directory.
"""

import contextlib
import contextvars
import dataclasses
import pathlib
from collections.abc import Iterator

from experiments import configs
from experiments.data import cifar, clothing1m, covid, image_lists, imdb
from experiments.data.digits import Splits, digits, split
from experiments.data.examples import DamagedData, Examples, Files, Loaded, MissingData

__all__ = [
    "DamagedData",
    "Examples",
    "Files",
    "Loaded",
    "MissingData",
    "Splits",
    "digits",
    "load",
    "remembering",
    "split",
]

# What has been read, while someone wants it remembered.
_read: contextvars.ContextVar[dict[object, Loaded] | None] = contextvars.ContextVar(
    "read", default=None
)


def load(
    data: configs.Data, data_dir: pathlib.Path | None, *, download: bool = False
) -> Loaded:
    """Loads a data set and checks that it is what was published.

    Nothing is held out, subsampled or relabelled here, except that COVID-LT, which is
    drawn from two collections, has its long tail already.

    Args:
      data: `source` says which; `partial` whether fewer examples than published are
        accepted. What each record must be is checked all the same.
      data_dir: where data sets are. TFDS's own directory for CIFAR and IMDB; for image
        files see `lists`, `covid` and `clothing1m`. Not needed for digits.
      download: whether TFDS may fetch what is missing, which takes TensorFlow.

    Returns:
      Its splits.

    Raises:
      MissingData: it is not there; says what to do.
      DamagedData: it is not what was published; names the file and the line.
    """
    if data.source == "digits":
        return Loaded(digits(), None, None)
    if data_dir is None:
        raise MissingData(
            f"{data.source} is read from a directory: give --data-dir, the one that "
            f"holds {_DIRECTORIES.get(data.source, data.source)}/."
        )
    data_dir = data_dir.expanduser()
    remembered = _read.get()
    if remembered is None:
        return _load(data, data_dir, download)
    # Runs that are compared differ in these, which are not looked at here.
    alike = dataclasses.replace(data, sampling="shuffled", clean_per_class=0)
    key = (alike, data_dir)
    if key not in remembered:
        remembered.clear()  # one is enough, and they are large
        remembered[key] = _load(data, data_dir, download)
    return remembered[key]


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within it, what was read last is not read again; files must not change."""
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)


def _load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Loaded:
    match data.source:
        case "cifar10" | "cifar100":
            return cifar.load(data, data_dir, download=download)
        case "imdb":
            return imdb.load(data, data_dir, download=download)
        case "covid_lt":
            return covid.load(data, data_dir)
        case "clothing1m":
            return clothing1m.load(data, data_dir)
        case "imagenet_lt" | "places_lt" | "inaturalist18":
            return image_lists.load(data, data_dir)


# Where that is not the name of the data set.
_DIRECTORIES = {"imdb": "imdb_reviews"}
