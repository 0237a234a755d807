"""Image files to arrays: Pillow decodes, crops and resizes, in Grain's workers.

An image depends only on its file, the config and a key, so that it is the same
whichever worker decodes it, and in whatever order.
"""

import dataclasses
import io
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageEnhance

from experiments import configs
from experiments.data.types import DamagedData, Files

SCALE = (0.08, 1.0)  # of a random part, of the whole image
RATIO = (3 / 4, 4 / 3)  # of a random part, width over height
TRIES = 10  # at a random part that lies within the image


class Wanted(NamedTuple):
    """The images of one batch that this host loads."""

    index: np.ndarray  # int [rows], index in the data set
    present: np.ndarray  # bool [rows], False for padding, which is black
    keys: Sequence[tuple[int, ...]] | None  # of each row; None for no augmentation


@dataclasses.dataclass(frozen=True)
class Batches:
    """A lazy sequence of batches of images, of the size and augmentation of `data`."""

    files: Files
    data: configs.Data
    # Of each batch; may be lazy. Sent to the worker processes, so it must be picklable.
    wanted: Sequence[Wanted]

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, number: int) -> np.ndarray:
        """Batch of that number, uint8 `[rows, size, size, 3]`."""
        index, present, keys = self.wanted[number]
        size = self.data.image_size
        images = np.zeros((len(index), size, size, 3), np.uint8)
        for row in np.flatnonzero(present):
            rng = None if keys is None else np.random.default_rng(keys[row])
            images[row] = image(self.files, int(index[row]), self.data, rng)
        return images

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


def stream(batches: Batches, workers: int) -> Generator[np.ndarray, None, None]:
    """Batches in order, made by other processes ahead of time.

    Each is uint8 `[rows, size, size, 3]`, the same whatever `workers`, the number of
    processes; 0 makes a batch here when it is asked for. Starting a process takes
    seconds, for it imports what this one does; so one stream should last for a
    training. Processes end when the stream is exhausted, closed or collected, or when
    this process ends, however it does. DamagedData if an image cannot be read or
    decoded; it names the file.
    """
    workers = min(workers, len(batches))
    if workers == 0:
        yield from batches
        return
    import grain  # a second of imports
    from absl import flags

    # Grain's settings are flags of a command line that this programme does not have.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    iterator = iter(
        grain.MapDataset.source(batches)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        .mp_prefetch(grain.MultiprocessingOptions(workers), _begin_worker)
    )
    try:
        for images in iterator:
            _free_at_once(type(images))
            # Copied, which takes milliseconds: what Grain gives is shared memory, and
            # some of it would be left behind when this process ends.
            yield np.array(images)
    finally:
        iterator.close()


def _free_at_once(kind: Any) -> None:
    """Lets Grain's arrays free their shared memory where they are deleted.

    The thread that it leaves that to has ended when the process deletes the last ones,
    which are in reference cycles; Python then warns of leaked memory.
    """
    pool = getattr(kind, "_del_thread_pool", None)
    if pool is not None:
        kind._del_thread_pool = None
        pool.close()


def _begin_worker(_worker: int, _workers: int) -> None:
    """Ends a worker with its parent, and leaves interruption to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Without this a worker whose parent is killed waits for it for ever.
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def image(
    files: Files, index: int, data: configs.Data, rng: np.random.Generator | None
) -> np.ndarray:
    """Decodes, augments and resizes one image, uint8 `[image_size, image_size, 3]`.

    For evaluation, where `rng` is None, the short side is resized to 8/7 of
    `image_size`, and the centre is cropped. For training the image is resized and
    cropped at random, or with `resized_crop` a random resized crop is taken. It is
    flipped, unless the device does that, and its colours are jittered. All resizing is
    bilinear over the pixels covered, as Pillow's is. DamagedData, as in `decode`.
    """
    return np.asarray(_to_size(decode(files, index), data, rng))


def decode(files: Files, index: int) -> PIL.Image.Image:
    """Decodes one image, of its own size, to three channels of a byte each.

    DamagedData if it cannot be read or decoded; it names the file.
    """
    encoded = files.read(index)
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as opened:
            return _rgb(opened)
    except PIL.UnidentifiedImageError as error:
        message = f"{files.where(index)}: no image, or of no format that Pillow reads."
        raise DamagedData(message) from error
    # Broken files make Pillow raise errors of a dozen kinds, SyntaxError among them.
    except Exception as error:
        message = f"{files.where(index)} cannot be decoded: {error}."
        raise DamagedData(message) from error


def _rgb(opened: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in three channels of a byte each."""
    if opened.mode.startswith("I"):
        # Grey of 16 bits. The high byte, as in what Pillow makes of colours of 16 bits;
        # conversion would cut off at 255.
        high = np.asarray(opened).clip(0, 65535) // 256
        return PIL.Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if opened.mode == "F":
        raise ValueError("its pixels are floating-point numbers of an unknown scale")
    if "transparency" in opened.info:
        opened = opened.convert("RGBA")  # what Pillow warns about otherwise
    return opened.convert("RGB")


def _to_size(
    picture: PIL.Image.Image, data: configs.Data, rng: np.random.Generator | None
) -> PIL.Image.Image:
    size = data.image_size
    if rng is not None and data.resized_crop:
        # Cut first: `resize(box=...)` lets the pixels around the box in.
        picture = picture.crop(part(*picture.size, rng))
        picture = picture.resize((size, size), PIL.Image.Resampling.BILINEAR)
    else:
        short = round(size * 8 / 7)
        # The long side is rounded down, as in what the published numbers were made by.
        sides = tuple(side * short // min(picture.size) for side in picture.size)
        picture = picture.resize(sides, PIL.Image.Resampling.BILINEAR)
        room = [side - size for side in sides]
        if rng is None:
            left, top = (round(space / 2) for space in room)
        else:
            left, top = (int(rng.integers(0, space + 1)) for space in room)
        picture = picture.crop((left, top, left + size, top + size))
    if rng is None:
        return picture
    if data.flip and data.augment_on == "host" and rng.random() < 0.5:
        picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    return jitter(picture, data.jitter, rng) if data.jitter else picture


def part(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The box of a random resized crop: left, top, right and bottom, pixels.

    Its area is uniform in 8% ... 100% of the image's, the logarithm of its width over
    its height uniform between those of 3/4 and 4/3, and its corner uniform among those
    within the image. Where ten such parts are too wide or too high, the middle of the
    image, cut to the range of shapes.

    References:
      Szegedy et al., `Going deeper with convolutions
      <https://arxiv.org/abs/1409.4842>`_; the tries are torchvision's.
    """
    narrowest, widest = RATIO
    for _ in range(TRIES):
        area = width * height * rng.uniform(*SCALE)
        sides = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * widest))
    h = min(height, round(width / narrowest))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(
    picture: PIL.Image.Image, most: float, rng: np.random.Generator
) -> PIL.Image.Image:
    """Jitters brightness, contrast and saturation of an RGB image, in random order.

    Each changes by a factor that is uniform in `[max(0, 1 − most), 1 + most]`.
    """
    kinds = (
        PIL.ImageEnhance.Brightness,
        PIL.ImageEnhance.Contrast,
        PIL.ImageEnhance.Color,
    )
    factors = rng.uniform(max(0.0, 1.0 - most), 1.0 + most, len(kinds))
    for kind in rng.permutation(len(kinds)):
        picture = kinds[kind](picture).enhance(factors[kind])
    return picture
