"""CIFAR-10 and CIFAR-100, in the order of the official files.

Read from the official binary files, `data_dir/cifar-10-batches-bin` and
`data_dir/cifar-100-binary`, or as prepared by TensorFlow Datasets in
`data_dir/cifar10/<version>` and `data_dir/cifar100/<version>`. TFDS shuffles, and the
published long tails and noisy labels are chosen by index in the official training
files. The `id` of a record, such as `train_00042`, counts in the order of those files,
and puts it back.
"""

import hashlib
import io
import math
import pathlib
import re

import numpy as np
from PIL import Image

from experiments import configs
from experiments.data import _check, tfds
from experiments.data.types import DamagedData, Dataset, Examples, MissingData

_COUNTS = {"train": 50_000, "test": 10_000}
_SHAPE = (32, 32, 3)

# The official binary files by split: a folder, its files, bytes of labels before each
# image, of which the last is the label.
_BINARY = {
    "cifar10": (
        "cifar-10-batches-bin",
        {
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        1,
    ),
    "cifar100": (
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        2,
    ),
}


# SHA-256 of the pixels and then the labels, uint8, in the official order.
_DIGESTS = {
    "cifar10": {
        "train": "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
        "test": "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
    }
}
# Mean of each channel of the training images, in [0, 1], to four digits: published in
# many papers. We know of no published digest of CIFAR-100.
_MEANS = {"cifar100": (0.5071, 0.4865, 0.4409)}


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Reads either of them, uint8 `[n, 32, 32, 3]`; see `datasets`.

    Takes some five seconds. The whole is held to its counts, and to the checksum
    (CIFAR-10) or the mean of the training images (CIFAR-100).
    """
    folder, files, label_bytes = _BINARY[data.source]
    binary = data_dir / folder
    if binary.is_dir():
        train, test = (
            _binary_split(binary, split, files[split], label_bytes, data)
            for split in _COUNTS
        )
        return Dataset(train, test, None)
    directory = tfds.find(data.source, data_dir, download=download)
    train, test = (_split(directory, split, data) for split in _COUNTS)
    return Dataset(train, test, None)


def _binary_split(
    folder: pathlib.Path,
    split: str,
    names: tuple[str, ...],
    label_bytes: int,
    data: configs.Data,
) -> Examples:
    """One split of the official binary files: label bytes, then red, green, blue."""
    where = f"{folder}, split {split!r}"
    size = label_bytes + math.prod(_SHAPE)
    parts = []
    for name in names:
        path = folder / name
        try:
            content = np.fromfile(path, np.uint8)
        except FileNotFoundError as error:
            raise MissingData(f"{path} is not there.") from error
        if len(content) == 0 or len(content) % size:
            raise DamagedData(
                f"{path} has {len(content):,} bytes, which is no multiple of the "
                f"{size:,} bytes of an example."
            )
        parts.append(content.reshape(-1, size))
    rows = np.concatenate(parts)
    labels = rows[:, label_bytes - 1].astype(np.int32)
    worst = int(np.argmax(labels >= data.classes))  # the first, if there are any
    _check.label(f"{where}, example {worst}", labels[worst], data.classes)
    channels, pixels = _SHAPE[2], rows[:, label_bytes:]
    images = pixels.reshape(-1, channels, *_SHAPE[:2]).transpose(0, 2, 3, 1)
    examples = Examples(np.ascontiguousarray(images), labels)
    if not data.partial:
        _refuse_unpublished(examples, np.arange(len(labels)), split, where, data)
    return examples


def _split(directory: pathlib.Path, split: str, data: configs.Data) -> Examples:
    """One split, put in order and checked."""
    where = f"{directory}, split {split!r}"
    numbers, images, labels = [], [], []
    features = {"id": bytes, "image": bytes, "label": int}
    for record in tfds.read(directory, split, features):
        found = re.fullmatch(rf"{split}_(\d+)".encode(), record["id"])
        if not found:
            raise DamagedData(
                f"{where}: expected an id as {split}_00042, got {record['id']!r}."
            )
        name = f"{where}, {record['id'].decode()}"
        _check.label(name, record["label"], data.classes)
        numbers.append(int(found[1]))
        images.append(_decode(record["image"], name))
        labels.append(record["label"])
    order = np.argsort(numbers, kind="stable")
    ordered = np.asarray(numbers)[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = ordered[1:][ordered[1:] == ordered[:-1]][0]
        raise DamagedData(f"{where}: two records have the id {split}_{twice:05d}.")
    examples = Examples(np.stack(images)[order], np.asarray(labels, np.int32)[order])
    if not data.partial:
        _refuse_unpublished(examples, ordered, split, where, data)
    return examples


def _decode(encoded: bytes, name: str) -> np.ndarray:
    """The pixels of a PNG, uint8 `[32, 32, 3]`."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG",))
        shape = image.height, image.width, len(image.getbands())
        # Looked at before it is decoded: a small file can hold a huge image.
        pixels = np.asarray(image) if shape == _SHAPE else None
    except Exception as error:  # broken files make Pillow raise a dozen kinds
        raise DamagedData(f"{name}: the image cannot be decoded: {error}.") from error
    if pixels is None:
        raise DamagedData(
            f"{name}: the image must be 32 × 32 × 3, got {' × '.join(map(str, shape))}."
        )
    return pixels


def _refuse_unpublished(
    examples: Examples, numbers: np.ndarray, split: str, where: str, data: configs.Data
) -> None:
    """Holds a whole split to what was published."""
    published = _COUNTS[split]
    if len(numbers) != published:
        raise DamagedData(
            f"{where} has {len(numbers):,} examples, published are {published:,}. "
            + _check.PARTIAL
        )
    if numbers[0] != 0 or numbers[-1] != published - 1:
        raise DamagedData(
            f"{where} has ids from {split}_{numbers[0]:05d} to "
            f"{split}_{numbers[-1]:05d}; they must be {split}_00000 to "
            f"{split}_{published - 1:05d}."
        )
    counts = np.bincount(examples.labels, minlength=data.classes)
    label = int(np.abs(counts - published // data.classes).argmax())
    if counts[label] != published // data.classes:
        raise DamagedData(
            f"{where} has {counts[label]:,} examples of class {label}, published are "
            f"{published // data.classes:,}."
        )
    if data.source in _DIGESTS:
        digest = hashlib.sha256(examples.inputs)
        digest.update(examples.labels.astype(np.uint8))
        if digest.hexdigest() != _DIGESTS[data.source][split]:
            raise DamagedData(
                f"{where}: images, labels or their order are not the published ones "
                f"(SHA-256 {digest.hexdigest()}, should be "
                f"{_DIGESTS[data.source][split]})."
            )
    elif split == "train":
        mean = examples.inputs.mean(axis=(0, 1, 2)) / 255
        if not np.allclose(mean, _MEANS[data.source], rtol=0, atol=1e-4):
            raise DamagedData(
                f"{where}: the channels' mean is {mean.round(4).tolist()}, published "
                f"is {list(_MEANS[data.source])}."
            )
