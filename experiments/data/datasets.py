"""Loads the data sets of `registry.DATASETS`: NumPy arrays, or lists of image files.

Each has a module with a function `load(data, data_dir, download)`, of your own data
`load(data)`, which returns a `Dataset`. `data.source` says which data set,
`data.partial` whether fewer examples than published are accepted; what each record must
be is checked all the same. With `download` TFDS may fetch what is missing, where it
knows the data set. Nothing is held out, subsampled or relabelled, except that COVID-LT,
which is drawn from two collections, has its long tail already. It raises MissingData
where the data set is not there, with the remedy, and DamagedData where it is not what
was published, naming the file and the line. Nothing is unpickled, and no path in a list
leads out of the data set's directory.
"""

import contextlib
import contextvars
import dataclasses
import importlib
import pathlib
from collections.abc import Iterator

import numpy as np

from experiments import configs, fields
from experiments.data.types import DamagedData, Dataset, MissingData

# What has been read, while someone wants it remembered.
_read: contextvars.ContextVar[dict[object, Dataset] | None] = contextvars.ContextVar(
    "read", default=None
)


def load(
    data: configs.Data, data_dir: pathlib.Path | None, *, download: bool = False
) -> Dataset:
    """Loads a data set and checks that it is what was published.

    `data_dir` is where data sets are: TFDS's own directory for CIFAR and IMDB; for
    image files see `image_lists`, `covid` and `clothing1m`. Digits need none. With
    `download` TFDS may fetch what is missing, which takes TensorFlow.
    """
    directory = data.info.directory
    if directory and data_dir is None:
        raise MissingData(
            f"{data.source} is read from a directory: give --data-dir, the one that "
            f"holds {directory}/."
        )
    data_dir = (data_dir or pathlib.Path()).expanduser()
    if data.info.own:
        return _load_own(data)
    remembered = _read.get()
    if remembered is None:
        return _load_published(data, data_dir, download)
    # Runs that are compared differ in these, which are not looked at here.
    alike = dataclasses.replace(data, sampling="shuffled", meta_per_class=0)
    key = (alike, data_dir)
    if key not in remembered:
        remembered.clear()  # one is enough, and they are large
        remembered[key] = _load_published(data, data_dir, download)
    return remembered[key]


def _load_published(
    data: configs.Data, data_dir: pathlib.Path, download: bool
) -> Dataset:
    """Reads a data set that is not your own, and makes stored images smaller."""
    module = importlib.import_module(f"experiments.data.{data.info.module}")
    loaded = module.load(data, data_dir, download)
    if data.image_size is None or data.info.files:
        return loaded
    smaller = (
        part and part._replace(inputs=_averaged(part.inputs, data.image_size))
        for part in loaded[:3]
    )
    return Dataset(*smaller, *loaded[3:])


def _averaged(images: np.ndarray, size: int) -> np.ndarray:
    """Means over squares of pixels, `[n, size, size, channels]`, of the same dtype."""
    count, stored, _, channels = images.shape
    side = stored // size
    squares = images.reshape(count, size, side, size, side, channels)
    means = squares.mean((2, 4), np.float32)
    return (means if images.dtype.kind == "f" else means.round()).astype(images.dtype)


def resolve(data: configs.Data) -> configs.Data:
    """Adds what your own data have, which decides the network, and an absolute path.

    Other data sets are returned as they are. BadConfiguration if there is no path or a
    class has too few examples; MissingData if nothing is there; DamagedData if it
    cannot be read, or `contents` are given and differ.
    """
    if not data.info.own:
        return data
    if data.path is None:
        raise configs.BadConfiguration(
            f"The source {data.source} is your own data: give --data.path, the file or "
            "directory (of python: module:function) that they are read from."
        )
    if data.source != "python":
        path = pathlib.Path(data.path).expanduser().resolve()
        data = dataclasses.replace(data, path=str(path))
    try:
        return dataclasses.replace(data, contents=_load_own(data).contents)
    except ValueError as error:
        raise configs.BadConfiguration(str(error)) from error


# The last that was read, since a run reads its data twice: for `resolve`, and to train.
_own: dict[object, Dataset] = {}
_OF_OWN = (
    "source", "path", "label", "text", "drop", "positive", "test_share", "vocabulary",
    "length",
)  # fmt: skip


def _load_own(data: configs.Data) -> Dataset:
    """Reads your own data unless they were read last and their files have not changed.

    DamagedData, too, if they are not what the run began with.
    """
    path = pathlib.Path(data.path or "")
    files = [path, *path.iterdir()] if path.is_dir() else [path] * path.exists()
    key = fields.only(data, *_OF_OWN), *((f, f.stat().st_mtime_ns) for f in files)
    if key not in _own:
        module = importlib.import_module(f"experiments.data.{data.info.module}")
        read = module.load(data)
        _own.clear()
        _own[key] = read
    dataset = _own[key]
    if (known := data.contents) is not None:
        here = dataset.contents
        if not known.class_sizes:  # a run of a build that did not keep them
            here = dataclasses.replace(here, class_sizes=())
        if not known.digest:
            here = dataclasses.replace(here, digest="")
        if known != here:
            raise DamagedData(
                f"{data.path} has changed since the run began: "
                f"{_changes(known, here)}. Train on it with another --out."
            )
    return dataset


def _changes(before: configs.Contents, now: configs.Contents, most: int = 5) -> str:
    """What differs between the contents of your own data, in words."""

    def described(contents: configs.Contents) -> dict[str, str]:
        sizes = contents.class_sizes or ("some",) * len(contents.class_names)
        by_class = zip(contents.class_names, sizes, strict=True)
        return {
            "inputs": contents.inputs,
            "shape of an example": str(list(contents.shape)),
            **{f"class {name!r}": f"{size} examples" for name, size in by_class},
        }

    old, new = described(before), described(now)
    differing = [
        f"{what}: {old.get(what, 'none')}, now {new.get(what, 'none')}"
        for what in old | new
        if old.get(what) != new.get(what)
    ]
    if not differing:
        return "its inputs, its labels or the order of its examples"
    more = f"; and {len(differing) - most} more" if len(differing) > most else ""
    return "; ".join(differing[:most]) + more


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within it, what was read last is not read again; files must not change."""
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)
