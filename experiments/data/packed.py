"""Tasks in a small folder: the images of several runs, each once and losslessly.

    images.webp   a mosaic of 32 × 32 tiles, 128 in a row
    <key>.npz     of a task: index of each image among the tiles, and label, by split

It is for machines to which the whole data set is too large to send. The key is a digest
of what the data's configuration sets otherwise than by default: a field that is new to
a version of this programme changes no key.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from experiments import configs
from experiments.data.task import Task
from experiments.data.types import Examples, MissingData
from experiments.results import run_log

_IMAGES, _COLUMNS = "images.webp", 128
_SPLITS = ("train", "validation", "test")


class Distinct:
    """Distinct inputs, in the order in which they came."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._kept: list[np.ndarray] = []

    def add(self, inputs: np.ndarray) -> np.ndarray:
        """Adds inputs `[n, ...]`; returns the row of each in `stacked`, int32 `[n]`."""
        rows = np.empty(len(inputs), np.int32)
        for index, one in enumerate(inputs):
            digest = hashlib.blake2b(one.tobytes(), digest_size=16).digest()
            rows[index] = self._rows.setdefault(digest, len(self._kept))
            if rows[index] == len(self._kept):
                self._kept.append(one)
        return rows

    def stacked(self) -> np.ndarray:
        """All distinct inputs, `[stored, ...]`."""
        return np.stack(self._kept)


def write(folder: pathlib.Path, tasks: Iterable[tuple[configs.Data, Task]]) -> int:
    """Writes the images and labels of tasks; returns the number of different images.

    The tasks have images in memory, uint8 `[n, side, side, 3]` with one side for all,
    and no meta set; each comes with its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distinct = Distinct()
    for data, task in tasks:
        arrays: dict[str, np.ndarray] = {"mislabelled": task.mislabelled}
        for split in _SPLITS:
            examples = getattr(task, split)
            if examples is None:
                continue
            index = distinct.add(examples.inputs)
            arrays |= {f"{split}_index": index, f"{split}_labels": examples.labels}
        np.savez_compressed(folder / f"{_key(data)}.npz", **arrays)
    tiles = distinct.stacked()
    side, _, channels = tiles[0].shape
    missing = -len(tiles) % _COLUMNS
    mosaic = np.pad(tiles, [(0, missing), (0, 0), (0, 0), (0, 0)])
    rows = mosaic.reshape(-1, _COLUMNS, side, side, channels).swapaxes(1, 2)
    image = Image.fromarray(rows.reshape(-1, _COLUMNS * side, channels))
    image.save(folder / _IMAGES, lossless=True, quality=100, method=4)
    return len(tiles)


def read(folder: pathlib.Path, data: configs.Data) -> Task:
    """A task as it was written; MissingData if the folder does not have it."""
    path = folder / f"{_key(data)}.npz"
    if not path.is_file():
        changed = ", ".join(f"{name}={value}" for name, value in _changed(data).items())
        raise MissingData(
            f"{folder} has no examples of this configuration: {changed or 'defaults'}. "
            "Pack them: python -m experiments reproduce --pack."
        )
    tiles = _tiles(folder)
    with np.load(path) as arrays:
        parts = {
            split: Examples(tiles[arrays[f"{split}_index"]], arrays[f"{split}_labels"])
            if f"{split}_index" in arrays
            else None
            for split in _SPLITS
        }
        mislabelled = arrays["mislabelled"]
    train = parts["train"]
    assert train is not None
    assert parts["test"] is not None
    counts = np.bincount(train.labels, minlength=data.classes)
    return Task(train, parts["validation"], parts["test"], mislabelled, counts)


def _tiles(folder: pathlib.Path) -> np.ndarray:
    """All images, uint8 `[n, side, side, 3]`."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a mosaic is large
    try:
        with Image.open(folder / _IMAGES, formats=("WEBP",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = most
    side = pixels.shape[1] // _COLUMNS
    tiles = pixels.reshape(-1, side, _COLUMNS, side, 3).swapaxes(1, 2)
    return tiles.reshape(-1, side, side, 3)


def _key(data: configs.Data) -> str:
    text = json.dumps(run_log.to_jsonable(_changed(data)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _changed(data: configs.Data) -> dict[str, Any]:
    """The fields that are not as by default."""
    return {
        field.name: value
        for field in dataclasses.fields(data)
        if (value := getattr(data, field.name)) != field.default
    }
