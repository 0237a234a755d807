"""Clothing1M: a million images with the labels of web shops, and few with clean ones.

In `data_dir`, as its archives unpack:

    clothing1m/noisy_train_key_list.txt    paths that are trained on
    clothing1m/noisy_label_kv.txt          lines of `path label`
    clothing1m/clean_val_key_list.txt
    clothing1m/clean_test_key_list.txt
    clothing1m/clean_label_kv.txt
    clothing1m/images/0/*/*.jpg

The training set is the noisy part, as in the paper; the clean training part is not
used. Validation and test labels are clean.
"""

import pathlib

from experiments import configs
from experiments.data import listing
from experiments.data.types import DamagedData, Dataset

_TRAIN = "noisy_train_key_list.txt"
_VALIDATION = "clean_val_key_list.txt"
_TEST = "clean_test_key_list.txt"
_COUNTS = {_TRAIN: 1_000_000, _VALIDATION: 14_313, _TEST: 10_526}
_LABELS = {
    _TRAIN: "noisy_label_kv.txt",
    _VALIDATION: "clean_label_kv.txt",
    _TEST: "clean_label_kv.txt",
}
_ADVICE = (
    "Clothing1M as its authors give it on request "
    "(https://github.com/Cysu/noisy_label), unpacked: the lists, and the images below "
    "images/."
)


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Reads the lists; see `datasets`."""
    root = data_dir / "clothing1m"
    listing.require(root, (*_COUNTS, *_LABELS.values()), _ADVICE)
    labels = {
        name: _labels(root / name, data.classes)
        for name in dict.fromkeys(_LABELS.values())
    }
    listings = {
        name: listing.read_keys(root / name, labels[labelled], labelled)
        for name, labelled in _LABELS.items()
    }
    lengths = {name: len(one.labels) for name, one in listings.items()}
    if (lengths[_TEST], lengths[_VALIDATION]) == (
        _COUNTS[_VALIDATION],
        _COUNTS[_TEST],
    ):
        raise DamagedData(
            f"{root / _TEST} has the {lengths[_TEST]:,} lines of {_VALIDATION}, and "
            "the other way round: they are swapped."
        )
    if not data.partial:
        for name, published in _COUNTS.items():
            listing.refuse_count(listings[name], published)
    listing.refuse_repeats(listings.values())
    train, validation, test = listings.values()
    for split in listings.values():
        listing.refuse_missing_images(split, _ADVICE)
    return Dataset(train, test, validation)


def _labels(file: pathlib.Path, classes: int) -> dict[str, int]:
    """The label of each path."""
    one = listing.read(file, classes)
    return dict(zip(one.inputs.paths.tolist(), one.labels.tolist(), strict=True))
