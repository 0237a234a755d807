"""Examples without labels, for a trained network: images, texts, rows or arrays."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments import configs
from experiments.data import (
    datasets,
    images,
    own,
    own_arrays,
    own_table,
    own_text,
    text,
)
from experiments.data.types import (
    DamagedData,
    Examples,
    Files,
    MissingData,
    file_names,
)

_ARRAYS = (".npy", ".npz")


class Inputs(NamedTuple):
    """Examples to be classified."""

    examples: Examples  # labels are zeros
    paths: list[str] | None  # of files, as given; None for arrays and tables


def load(
    source: pathlib.Path,
    data: configs.Data,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Inputs:
    """Loads examples as a data set stores its own; those of a folder sorted by path.

    The source is a folder, searched with its subfolders, an image, or a .npy or .npz
    file; of your own arrays what they are trained on; of tables and texts what their
    formats are, or token ids in a .npy or .npz file. `prepare`, of the task, or for
    texts a tokenizer, makes the network's inputs of what is stored; None where they are
    the same.

    MissingData if a folder has nothing to classify; DamagedData if shape, dtype or
    range are not those of the data set, such as bytes where fractions of 1 were
    trained on.
    """
    paths = None
    if of_texts(source, data):
        found, paths = own_text.unlabelled(source, data)
    elif data.source == "table":
        found = own_table.unlabelled(source, data)
    elif _of_arrays(source, data, prepare is not None):
        prepare = None if data.info.inputs == "text" else prepare  # ids are as they are
        given = _array(source)
        found = _checked(given, source, data, prepare is not None)
        if prepare is not None:
            trained = np.asarray(datasets.load(data, None).train.inputs)
            stored = {"that": (trained, trained.dtype), "it": (found, given.dtype)}
            rule = f"{source} must be of the scale of the training set"
            own_arrays.require_one_scale(rule, stored)
    else:
        files = _files(source)
        paths = [str(files.path(index)) for index in range(len(files))]
        found = files if data.info.files else _decoded(files, data)
    if prepare is not None:
        found = prepare(found)
    return Inputs(Examples(found, np.zeros(len(found), np.int32)), paths)


def require(source: pathlib.Path) -> None:
    """Raises MissingData if there is no such file or folder."""
    if not source.exists():
        raise MissingData(
            f"There is no {source}: give a folder of images, a file of texts, rows or "
            "arrays."
        )


def of_texts(source: pathlib.Path, data: configs.Data) -> bool:
    """Whether a file or a folder has texts, which must be made token ids first."""
    return data.info.inputs == "text" and source.suffix.lower() not in _ARRAYS


def _of_arrays(source: pathlib.Path, data: configs.Data, standardised: bool) -> bool:
    """Whether a source is arrays; what was standardised in training is nothing else."""
    in_folder = data.info.module == "own_arrays" and any(source.glob("*.npy"))
    return standardised or in_folder or source.suffix.lower() in _ARRAYS


def _files(source: pathlib.Path) -> Files:
    """An image, or those of a folder; MissingData if it has none."""
    root, found = source.parent, [source]
    if source.is_dir():
        root, found = source, own.files_below(source, own.IMAGES)
        if not found:
            raise MissingData(
                f"{source} has no image (*{', *'.join(sorted(own.IMAGES))}), nor have "
                "its subfolders."
            )
    relative = [path.relative_to(root).as_posix() for path in found]
    return Files(root, file_names(relative))


def _decoded(files: Files, data: configs.Data) -> np.ndarray:
    """Images of a data set held in memory: of its size, which nothing resizes."""
    height, width, channels = data.shape
    if channels not in (1, 3):
        raise DamagedData(
            f"{files.path(0)} is read as 1 or 3 channels, and the run has images of "
            f"{channels}: give them as arrays, [n, {height}, {width}, {channels}]."
        )
    decoded = np.empty((len(files), *data.shape), np.uint8)
    for index, image in enumerate(decoded):
        picture = images.decode(files, index)
        if picture.size != (width, height):
            raise DamagedData(
                f"{files.path(index)} has {picture.width} × {picture.height} pixels, "
                f"and {data.source} has {width} × {height}: resize it first."
            )
        grey = picture.convert("L") if channels == 1 else picture
        image[...] = np.asarray(grey).reshape(data.shape)
    return decoded


def _array(source: pathlib.Path) -> np.ndarray:
    """The array of a file, or of several the one whose name says that it is inputs."""
    arrays = own_arrays.read(source)
    splits = ("", *own.SPLITS["test"], *own.SPLITS["train"])
    name = own_arrays.named(arrays, own_arrays.INPUTS, splits)
    if name is None and len(arrays) != 1:
        raise DamagedData(
            f"{source} has the arrays {', '.join(arrays)}: name the one that is to be "
            f"classified {own_arrays.INPUTS[0]!r}."
        )
    return next(iter(arrays.values())) if name is None else arrays[name]


def _checked(
    inputs: np.ndarray, source: pathlib.Path, data: configs.Data, standardised: bool
) -> np.ndarray:
    """The examples in a dtype of the data set, if they may be its own.

    What is `standardised` may be any numbers.
    """
    of_text, given = data.info.inputs == "text", inputs.dtype
    if not of_text:
        inputs = own_arrays.as_stored(str(source), inputs, data)
    if inputs.shape[1:] != data.shape or not inputs.size:
        shape = ", ".join(map(str, data.shape))
        raise DamagedData(
            f"{source} must hold examples of {data.source}, [n, {shape}], got "
            f"{list(inputs.shape)}."
        )
    low, high = float(inputs.min()), float(inputs.max())
    got = f"got {given} from {low:g} to {high:g}."
    integers = np.issubdtype(inputs.dtype, np.integer)
    if of_text:
        words = data.vocabulary + text.FIRST_WORD
        if not (integers and low >= 0 and high < words):
            raise DamagedData(f"{source}: token ids are integers below {words}, {got}")
        return inputs.astype(np.int32)
    if standardised:
        return inputs.astype(np.float32)
    if inputs.dtype == np.uint8:
        return inputs
    if np.issubdtype(inputs.dtype, np.floating) and low >= 0.0 and high <= 1.0:
        return inputs.astype(np.float32)
    raise DamagedData(
        f"{source}: images are integers from 0 to 255, or floating in [0, 1], {got}"
    )
