"""Reads data sets that TensorFlow Datasets has prepared, without TensorFlow."""

import contextlib
import importlib.util
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.data.types import DamagedData, MissingData

_AT_A_TIME = 1000  # records; one by one takes four times as long
_TYPES = {bytes: bytes, int: (int, np.integer)}


def find(name: str, data_dir: pathlib.Path, *, download: bool) -> pathlib.Path:
    """The directory of a prepared data set of that TFDS name, of its newest version.

    With `download` TFDS may fetch and prepare what is not there, which takes a network
    and TensorFlow. MissingData if it is not there, and did not come.
    """
    directory = _newest(data_dir / name)
    if directory is None and download:
        _prepare(name, data_dir)
        directory = _newest(data_dir / name)
    if directory is None:
        raise MissingData(
            f"{data_dir / name}/<version>/dataset_info.json is not there. "
            "TensorFlow Datasets makes it. With a network and TensorFlow "
            "(pip install tensorflow), give --download, or run\n  "
            + _command(name, data_dir)
        )
    return directory


def read(
    directory: pathlib.Path, split: str, features: Mapping[str, type]
) -> Iterator[dict[str, Any]]:
    """The records of a split, in the order in which they are stored.

    A record must have the features, by name: `bytes` (text, or an encoded image) or
    `int`; it may have more. MissingData if the records are in another format than
    `array_record`; DamagedData if they cannot be read, or are others.
    """
    where = f"{directory}, split {split!r}"
    with warnings.catch_warnings():
        # Deprecations within TFDS and what it builds on are nothing the user can mend.
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds  # half a second

        with _blaming(f"{directory}"):
            builder = tfds.builder_from_directory(directory)
            info = builder.info
            formats = {one.value for one in info.available_file_formats()}
            lacking = [one for one in features if one not in info.features]
            absent = split not in info.splits
        if "array_record" not in formats:
            raise MissingData(
                f"{directory} has its records as {', '.join(sorted(formats))}, which "
                "takes TensorFlow to read; array_record does not. Where TensorFlow is, "
                "run\n  python -m tensorflow_datasets.scripts.convert_format "
                f"--dataset_version_dir={directory} --out_file_format=array_record"
            )
        if absent or lacking:
            what = f"split {split!r}" if absent else f"feature {lacking[0]!r}"
            raise DamagedData(f"{directory} has no {what}.")
        with _blaming(where):
            images = {
                name: tfds.decode.SkipDecoding()
                for name, feature in info.features.items()
                if isinstance(feature, tfds.features.Image)
            }
            count = info.splits[split].num_examples
            source = count and builder.as_data_source(
                split=split, decoders=images, file_format="array_record"
            )
    if not count:
        raise DamagedData(f"{where} is empty.")
    for first in range(0, count, _AT_A_TIME):
        indices = range(first, min(first + _AT_A_TIME, count))
        with _blaming(f"{where}, records {indices[0]} to {indices[-1]}"):
            rows = source.__getitems__(indices)
        for row in rows:
            for name, kind in features.items():
                if not isinstance(row[name], _TYPES[kind]):
                    raise DamagedData(
                        f"{where}: {name} must be {kind.__name__}, got "
                        f"{type(row[name]).__name__}."
                    )
            yield row


@contextlib.contextmanager
def _blaming(where: str) -> Iterator[None]:
    """Makes DamagedData of errors, of whatever kind TFDS and its parts raise."""
    try:
        yield
    except Exception as error:
        raise DamagedData(f"{where}: {error}") from error


def _newest(directory: pathlib.Path) -> pathlib.Path | None:
    """The directory of the highest version below."""
    versions = [info.parent for info in directory.glob("*.*.*/dataset_info.json")]
    numbered = [one for one in versions if one.name.replace(".", "").isdigit()]
    return max(
        numbered,
        key=lambda one: tuple(int(part) for part in one.name.split(".")),
        default=None,
    )


def _prepare(name: str, data_dir: pathlib.Path) -> None:
    """Has TFDS fetch the data set and store it as `array_record`."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingData(
            f"To prepare {name}, TensorFlow Datasets needs TensorFlow, which is not "
            "installed here: pip install tensorflow. Or prepare it elsewhere with\n  "
            f"{_command(name, data_dir)}\nand copy {name} into {data_dir}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            builder.download_and_prepare()
        except Exception as error:  # network, disk, checksums: whatever TFDS raises
            raise MissingData(
                f"TensorFlow Datasets could not prepare {name} in {data_dir}: {error}"
            ) from error


def _command(name: str, data_dir: pathlib.Path) -> str:
    """What prepares a data set by hand."""
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record')"
        '.download_and_prepare()"'
    )
