"""ImageNet-LT, Places-LT and iNaturalist 2018: long tails that come as lists of files.

The lists have lines of `path label`. Each data set has a directory of its own in
`data_dir`, which holds the lists, and the images at the paths that they give:

    imagenet_lt/ImageNet_LT_train.txt         imagenet_lt/train/n01440764/*.JPEG
    imagenet_lt/ImageNet_LT_val.txt           (from ILSVRC's training images)
    imagenet_lt/ImageNet_LT_test.txt          imagenet_lt/val/n01440764/*.JPEG

    places_lt/Places_LT_train.txt             places_lt/train/airfield/*.jpg
    places_lt/Places_LT_val.txt               places_lt/val/airfield/*.jpg
    places_lt/Places_LT_test.txt

    inaturalist18/iNaturalist18_train.txt     inaturalist18/train_val2018/Aves/*/*.jpg
    inaturalist18/iNaturalist18_val.txt

or, for iNaturalist, the competition's own `train2018.json` and `val2018.json` in place
of the lists. Links will do for the directories of images. iNaturalist has no public
test labels, and results are reported on its validation split, so that is the test split
here.
"""

import json
import pathlib
from typing import Any, NamedTuple

from experiments import configs
from experiments.data import listing
from experiments.data.types import DamagedData, Dataset, Examples


class _Part(NamedTuple):
    """One list as it was published."""

    name: str
    images: int
    least: int | None = None  # images of the scarcest class; None where not known
    most: int | None = None  # and of the largest


class _Set(NamedTuple):
    """The lists of a data set, and where they and the images are had."""

    train: _Part
    validation: _Part | None
    test: _Part
    advice: str


_OLTR = "https://github.com/zhmiao/OpenLongTailRecognition-OLTR"
_KANG = "https://github.com/facebookresearch/classifier-balancing"

_SETS: dict[str, _Set] = {
    "imagenet_lt": _Set(
        train=_Part("ImageNet_LT_train.txt", 115_846, 5, 1280),
        validation=_Part("ImageNet_LT_val.txt", 20_000, 20, 20),
        test=_Part("ImageNet_LT_test.txt", 50_000, 50, 50),
        advice=f"the three lists of {_OLTR}, and ILSVRC 2012's training images below "
        "train/ and its validation images below val/, each in a directory for its "
        "class (train/n01440764/n01440764_762.JPEG).",
    ),
    "places_lt": _Set(
        train=_Part("Places_LT_train.txt", 62_500, 5, 4980),
        validation=_Part("Places_LT_val.txt", 7300, 20, 20),
        test=_Part("Places_LT_test.txt", 36_500, 100, 100),
        advice=f"the three lists of {_OLTR}, and the 256 × 256 images of "
        "Places365-Standard (http://places2.csail.mit.edu/download.html) below train/ "
        "and val/, each in a directory for its class (train/airfield/00004851.jpg).",
    ),
    "inaturalist18": _Set(
        train=_Part("iNaturalist18_train.txt", 437_513),
        validation=None,
        test=_Part("iNaturalist18_val.txt", 24_426, 3, 3),
        advice=f"iNaturalist18_train.txt and iNaturalist18_val.txt of {_KANG}, or "
        "train2018.json and val2018.json of iNaturalist 2018 "
        "(https://github.com/visipedia/inat_comp), and its images below "
        "train_val2018/.",
    ),
}


def load(data: configs.Data, data_dir: pathlib.Path, download: bool) -> Dataset:
    """Loads one of the three; see `datasets`."""
    root = data_dir / data.source
    published = _SETS[data.source]
    parts = [part for part in published[:3] if part is not None]
    names, reader = [part.name for part in parts], listing.read
    annotations = ["train2018.json", "val2018.json"]
    if (
        data.source == "inaturalist18"
        and not (root / names[0]).is_file()
        and (root / annotations[0]).is_file()
    ):
        names, reader = annotations, _read_json
    listing.require(root, names, published.advice)
    splits = [reader(root / name, data.classes) for name in names]
    if not data.partial:
        for one, part in zip(splits, parts, strict=True):
            listing.refuse_count(one, part.images)
            if part.least is not None:
                listing.refuse_class_counts(one, data.classes, part.least, part.most)
    listing.refuse_repeats(splits)
    for split in splits:
        listing.refuse_missing_images(split, published.advice)
    validation = splits[1] if published.validation else None
    return Dataset(splits[0], splits[-1], validation)


def _read_json(file: pathlib.Path, classes: int) -> Examples:
    """Reads iNaturalist's annotations: `images` with an id and a name, and labels."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise DamagedData(f"{file}: {error}.") from error
    labels = {
        _field(file, entry, "image_id", int): _field(file, entry, "category_id", int)
        for entry in _field(file, content, "annotations", list)
    }
    paths, found = [], []
    for entry in _field(file, content, "images", list):
        path = _field(file, entry, "file_name", str)
        listing.refuse_path(path, str(file))
        label = labels.get(_field(file, entry, "id", int))
        if label is None or not 0 <= label < classes:
            raise DamagedData(
                f"{file}: the category_id of {path!r} must be in 0 ... {classes - 1}, "
                f"got {label}."
            )
        paths.append(path)
        found.append(label)
    return listing.examples(file, paths, found, lines=None)


def _field(file: pathlib.Path, entry: Any, name: str, kind: type) -> Any:
    """The value of that name in an object, of that type."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise DamagedData(
            f"{file}: expected an object with {name!r}, {kind.__name__}, got "
            f"{str(entry)[:80]!r}."
        )
    return value
