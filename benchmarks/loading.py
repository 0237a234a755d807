"""The loaders without a training step: batches are loaded and dropped."""

import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import network
from benchmarks.compiled import Ready
from experiments import configs, presets
from experiments.data import loader
from experiments.data.types import Examples, Files

EPOCHS = 10**6  # more than will be run
JPEG_QUALITY = 90
_READY = 8  # batches that a process may have ready, and more


def arrays(preset: str = "cifar10_lt100", batch: int = 128) -> Ready:
    """The loader of images in memory: shuffled, cropped and flipped.

    Args:
      preset: shapes and augmentation of the data, which are random.
      batch: examples.

    Returns:
      The loader; a step loads a batch.
    """
    run = network.configure(preset, "sgd", batch)
    examples = network.task(run).train
    batches = loader.training(examples, run.data, batch, seed=0, epochs=range(EPOCHS))
    return Ready({"examples": batch}, lambda: _timed(batches))


def files(
    preset: str = "imagenet_lt_stage1",
    batch: int = 64,
    images: int = 256,
    stored: tuple[int, int] = (500, 375),
    size: int | None = None,
    workers: int = 0,
) -> Ready:
    """The loader of JPEGs: decoded, cropped, resized, flipped and jittered.

    Files are written to a temporary folder, and are in the page cache when they are
    read. Workers fill their queues between requests, so a request first takes what may
    be ready, and times what comes after.

    Args:
      preset: shapes and augmentation of the data, which are random.
      batch: examples.
      images: files.
      stored: width and height of a file, pixels.
      size: of the loaded images, pixels; None for the preset's.
      workers: processes that decode; 0 for this one.

    Returns:
      The loader; a step loads a batch.
    """
    data = presets.get(preset).run.data
    if size is not None:
        data = configs.replace(data, {"image_size": size})
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    root = pathlib.Path(folder.name)
    names = [f"{number}.jpg" for number in range(images)]
    rng = np.random.default_rng(0)
    for name in names:
        _picture(rng, *stored).save(root / name, quality=JPEG_QUALITY)
    listed = Files(root, np.array(names, np.dtypes.StringDType()))
    examples = Examples(listed, np.zeros(images, np.int32))
    batches = loader.training(
        examples, data, batch, seed=0, epochs=range(EPOCHS), workers=workers
    )
    written = sum(path.stat().st_size for path in root.iterdir())
    facts = {
        "examples": batch,
        "workers": workers,
        "file_bytes": written / images,
        "size": data.image_size,
    }

    def start() -> Callable[[int], float]:
        return _timed(batches, beforehand=_READY * workers, kept=folder)

    return Ready(facts, start)


def _timed(
    batches: Iterator[Any], beforehand: int = 0, kept: Any = None
) -> Callable[[int], float]:
    """Times an iterator of batches; `kept` lives as long as the iterator is used."""

    def run(count: int, kept: Any = kept) -> float:
        for _ in range(beforehand):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return time.perf_counter() - began

    return run


def _picture(rng: np.random.Generator, width: int, height: int) -> PIL.Image.Image:
    """Smooth areas with a little grain: about as many bytes as a photograph."""
    coarse = rng.integers(0, 256, (height // 25, width // 25, 3), np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize(
        (width, height), PIL.Image.Resampling.BICUBIC
    )
    grain = rng.normal(0.0, 8.0, (height, width, 1))
    return PIL.Image.fromarray(np.uint8(np.clip(np.asarray(smooth) + grain, 0, 255)))
