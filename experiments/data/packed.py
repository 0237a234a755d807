"""Tasks in a small folder: the images of several runs, each once and losslessly.

    images.webp.1-of-3   the first bytes of a mosaic of 32 × 32 tiles, 256 in a row
    <key>.npz            of a task: index of each image among the tiles, and label, by
                         split; the number of parts of the mosaic, and its digest

It is for machines to which the whole data set is too large to send. The parts, joined
in the order of their names, are a WebP image. The key is a digest of what the data's
configuration sets otherwise than by default: a field that is new to a version of this
programme changes no key.
"""

import dataclasses
import hashlib
import io
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

PART_BYTES = 48 * 2**20  # most that one part of the images has
_IMAGES, _COLUMNS = "images.webp", 256
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


def write(
    folder: pathlib.Path,
    tasks: Iterable[tuple[configs.Data, Task]],
    part_bytes: int = PART_BYTES,
) -> int:
    """Writes the images and labels of tasks; returns the number of different images.

    The tasks have images in memory, uint8 `[n, side, side, 3]` with one side for all,
    and no meta set; each comes with its configuration. Each task is written after the
    images, by one rename: what is interrupted is not read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distinct, by_key = Distinct(), dict[str, dict[str, Any]]()
    for data, task in tasks:
        arrays: dict[str, np.ndarray] = {"mislabelled": task.mislabelled}
        for split in _SPLITS:
            examples = getattr(task, split)
            if examples is None:
                continue
            index = distinct.add(examples.inputs)
            arrays |= {f"{split}_index": index, f"{split}_labels": examples.labels}
        by_key[_key(data)] = arrays
    tiles = distinct.stacked()
    side, _, channels = tiles[0].shape
    missing = -len(tiles) % _COLUMNS
    mosaic = np.pad(tiles, [(0, missing), (0, 0), (0, 0), (0, 0)])
    rows = mosaic.reshape(-1, _COLUMNS, side, side, channels).swapaxes(1, 2)
    image = Image.fromarray(rows.reshape(-1, _COLUMNS * side, channels))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100, method=4)
    content = buffer.getvalue()
    for earlier in folder.glob(f"{_IMAGES}.*-of-*"):
        earlier.unlink()
    names = _names(-(-len(content) // part_bytes))
    for index, name in enumerate(names):
        start = index * part_bytes
        (folder / name).write_bytes(content[start : start + part_bytes])
    for key, arrays in by_key.items():
        temporary = folder / f"{key}.tmp"
        with temporary.open("wb") as file:
            np.savez_compressed(
                file, parts=len(names), digest=_digest(content), **arrays
            )
        temporary.replace(folder / f"{key}.npz")
    return len(tiles)


def read(folder: pathlib.Path, data: configs.Data) -> Task:
    """A task as it was written; MissingData if the folder does not have all of it."""
    path = folder / f"{_key(data)}.npz"
    if not path.is_file():
        changed = ", ".join(f"{name}={value}" for name, value in _changed(data).items())
        raise MissingData(
            f"{folder} has no examples of this configuration: {changed or 'defaults'}. "
            "Pack them: python -m experiments reproduce --pack."
        )
    with np.load(path) as arrays:
        content = _joined(folder, int(arrays["parts"]))
        if _digest(content) != arrays["digest"]:
            raise MissingData(
                f"{folder}: the parts of {_IMAGES} are not those that {path.name} was "
                "packed with. Copy all files of one packing."
            )
        tiles = _tiles(content)
        parts = {
            split: Examples(tiles[arrays[f"{split}_index"]], arrays[f"{split}_labels"])
            if f"{split}_index" in arrays
            else None
            for split in _SPLITS
        }
        mislabelled = arrays["mislabelled"]
    counts = np.bincount(parts["train"].labels, minlength=data.classes)
    return Task(**parts, mislabelled=mislabelled, class_counts=counts)


def _names(parts: int) -> list[str]:
    """The names of the parts of the images, which sort in their order."""
    width = len(str(parts))
    return [f"{_IMAGES}.{part:0{width}}-of-{parts}" for part in range(1, parts + 1)]


def _joined(folder: pathlib.Path, parts: int) -> bytes:
    """The content of all parts of the images."""
    names = _names(parts)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise MissingData(
            f"{folder} has no {', '.join(missing)}: it must have all {parts} parts of "
            f"{_IMAGES}."
        )
    return b"".join((folder / name).read_bytes() for name in names)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _tiles(content: bytes) -> np.ndarray:
    """All images, uint8 `[n, side, side, 3]`."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a mosaic is large
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
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
