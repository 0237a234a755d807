"""The input pipeline, without a step, against the step that it feeds.

A loader that is not slower than the step never starves it, since both run at the same
time: its time over the step's should be below one. `loader` crops and flips images of
CIFAR's size for ResNet-32; `jpeg` decodes and crops photographs of 224 pixels in one
process for ResNet-50, whose examples per second are those of one worker. Busy processes
would disturb the others, so several workers are timed by themselves, after the rest.
"""

import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import trainer_step
from benchmarks.interleave import Runner, call
from benchmarks.step_cost import Ready
from benchmarks.suites.overhead import SMALL
from benchmarks.summary import Group
from experiments import configs, presets
from experiments.data import loader, types

CIFAR, PHOTOGRAPHS = "cifar10_lt100", "imagenet_lt_stage1"
EPOCHS = range(10**6)  # more than will be run
JPEG_QUALITY = 90
_READY = 8  # batches that a process may have ready, and more


def measure(runner: Runner) -> Iterator[Group]:
    """Yields a group for arrays, and one for files."""
    quick = runner.config.quick
    batch, of_files, size = (8, 4, 32) if quick else (128, 32, 224)
    small: dict[str, Any] = SMALL if quick else {}
    yield runner.group(
        f"CIFAR, batch {batch}",
        {
            "step": call(trainer_step.build, preset=CIFAR, batch=batch, changes=small),
            "loader": call(arrays, batch=batch),
        },
    )
    files: dict[str, Any] = {"batch": of_files, "size": size}
    changes: dict[str, Any] = {"data.image_size": size}
    if quick:
        files |= {"images": 8, "stored": (60, 50)}
        changes |= {"model.blocks": (1,), "model.widths": (4,)}
    step = {"preset": PHOTOGRAPHS, "batch": of_files, "changes": changes}
    photographs = runner.group(
        f"JPEG, {size} pixels, batch {of_files}",
        {"step": call(trainer_step.build, **step), "jpeg": call(jpegs, **files)},
    )
    several = 1 if quick else os.cpu_count() or 1
    name = f"jpeg, workers: {several}"
    workers_only = runner.group(
        name,
        {name: call(jpegs, workers=several, **files)},
        steps={name: 2 if quick else 8 * several},
    )
    photographs.variants.update(workers_only.variants)
    yield photographs


def arrays(batch: int) -> Ready:
    """The loader of images in memory, which crops and flips; a step is a batch."""
    run = trainer_step.configure(CIFAR, "sgd", batch)
    examples = trainer_step.random_task(run).train
    batches = loader.training(examples, run.data, batch, seed=0, epochs=EPOCHS)
    return Ready({"examples": batch}, lambda: _timed(batches))


def jpegs(
    batch: int,
    size: int,
    images: int = 256,
    stored: tuple[int, int] = (500, 375),
    workers: int = 0,
) -> Ready:
    """The loader of JPEGs: decoded, cropped, resized, flipped and jittered.

    Files are written to a temporary folder, and are in the page cache when they are
    read. Workers fill their queues between requests, so a request first takes what may
    be ready, and times what comes after.

    Args:
      batch: examples; a step is a batch.
      size: height and width of the loaded images, pixels.
      images: files.
      stored: width and height of a file, pixels.
      workers: processes that decode; 0 for this one.
    """
    data = configs.replace(presets.get(PHOTOGRAPHS).run.data, {"image_size": size})
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    root = pathlib.Path(folder.name)
    names = [f"{number}.jpg" for number in range(images)]
    rng = np.random.default_rng(0)
    for name in names:
        _picture(rng, *stored).save(root / name, quality=JPEG_QUALITY)
    listed = types.Files(root, np.array(names, np.dtypes.StringDType()))
    examples = types.Examples(listed, np.zeros(images, np.int32))
    batches = loader.training(
        examples, data, batch, seed=0, epochs=EPOCHS, workers=workers
    )
    written = sum(path.stat().st_size for path in root.iterdir()) / images
    facts = {"examples": batch, "workers": workers, "file_bytes": written, "size": size}
    return Ready(facts, lambda: _timed(batches, _READY * workers, folder))


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
