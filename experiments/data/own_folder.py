"""Your own image files, in subfolders named after their classes.

`PATH/CLASS/*.jpg`, or `PATH/train/CLASS/*.jpg` with `test` and `val` where you have
them: the form of torchvision's ImageFolder.
"""

import pathlib

import numpy as np

from experiments import configs
from experiments.data import own
from experiments.data.types import DamagedData, Dataset, Files

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def load(data: configs.Data) -> Dataset:
    """Lists the images; see `datasets`."""
    path = own.path_of(data)
    parts = {}
    for split, found in listed(path, SUFFIXES, "image").items():
        paths = [str(file.relative_to(path).as_posix()) for file, _ in found]
        files = Files(path, np.array(paths, np.dtypes.StringDType()))
        labels = [label for _, label in found]
        parts[split] = own.Part(files, labels, files.where)
    return own.dataset(parts, data, "images")


def listed(
    path: pathlib.Path, suffixes: tuple[str, ...], what: str
) -> dict[str, list[tuple[pathlib.Path, str]]]:
    """Files with their class, in the order of their names, by split.

    Args:
      path: a directory of classes, or of splits.
      suffixes: of the files that count, in lower case.
      what: a file is, for messages.

    Raises:
      DamagedData: it is not a directory, or a class has no such file.
    """
    if not path.is_dir():
        raise DamagedData(
            f"{path} must be a directory with a subfolder for each class."
        )
    splits = own.below(path, directories=True)
    roots = splits if "train" in splits else {"train": path}
    found = {}
    for split, root in roots.items():
        found[split] = []
        classes = [d for d in sorted(root.iterdir()) if d.is_dir() and d.name[0] != "."]
        if not classes:
            raise DamagedData(f"{root} must have a subfolder for each class, got none.")
        for folder in classes:
            files = [
                f for f in sorted(folder.rglob("*")) if f.suffix.lower() in suffixes
            ]
            if not files and split == "train":
                raise DamagedData(
                    f"{folder} has no {what}: expected files with the ending "
                    f"{', '.join(suffixes)}."
                )
            found[split] += [(file, folder.name) for file in files]
    return found
