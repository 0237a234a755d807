"""Examples without labels, for a trained network: images, texts, rows or arrays."""

import pathlib
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments import configs
from experiments.data import images, own, own_table, own_text, text
from experiments.data.types import DamagedData, Examples, Files, MissingData

# Names under which an array of examples is looked for in an .npz file of several.
NAMES = ("inputs", "images", "x", "x_test", "X")
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
    file; of tables and texts what their formats are, or token ids in a .npy or .npz
    file. `prepare`, of the task, or for texts a tokenizer, makes the network's inputs
    of what is stored; None where they are the same.

    MissingData if a folder has nothing to classify; DamagedData if shape, dtype or
    range are not those of the data set.
    """
    paths = None
    if of_texts(source, data):
        found, paths = own_text.unlabelled(source, data)
    elif data.source == "table":
        found = own_table.unlabelled(source, data)
    elif prepare is not None and data.info.inputs != "text":
        found = _numbers(_array(source), source, data)
    elif source.suffix.lower() in _ARRAYS:
        found, prepare = _checked(_array(source), source, data), None
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


def _files(source: pathlib.Path) -> Files:
    """An image, or those of a folder; MissingData if it has none."""
    root, found = source.parent, [source]
    if source.is_dir():
        root, found = source, sorted(source.rglob("*"))
        found = [path for path in found if path.suffix.lower() in own.IMAGES]
        if not found:
            raise MissingData(
                f"{source} has no image (*{', *'.join(sorted(own.IMAGES))}), nor have "
                "its subfolders."
            )
    relative = [path.relative_to(root).as_posix() for path in found]
    return Files(root, np.array(relative, np.dtypes.StringDType()))


def _decoded(files: Files, data: configs.Data) -> np.ndarray:
    """Images of a data set held in memory: of its size, which nothing resizes."""
    height, width, channels = data.shape
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
    """The array of a file, or the one of several that has a known name."""
    try:
        loaded = np.load(source, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            known = [name for name in NAMES if name in names] or names
            if len(names) > 1 and known == names:
                raise DamagedData(
                    f"{source} has the arrays {', '.join(names)}: name the one that is "
                    f"to be classified {NAMES[0]!r}."
                )
            return loaded[known[0]]
    except (ValueError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise DamagedData(f"{source} cannot be read as arrays: {error}") from error


def _numbers(
    stored: np.ndarray, source: pathlib.Path, data: configs.Data
) -> np.ndarray:
    """Arrays of any numbers, which are standardised, as float32."""
    if stored.shape[1:] != data.shape or stored.dtype.kind not in "uifb":
        raise DamagedData(
            f"{source} must hold numbers [n, {', '.join(map(str, data.shape))}], "
            f"got {stored.dtype} {list(stored.shape)}."
        )
    return stored.astype(np.float32)


def _checked(
    inputs: np.ndarray, source: pathlib.Path, data: configs.Data
) -> np.ndarray:
    """The examples in a dtype of the data set, if they may be its own."""
    if inputs.ndim == len(data.shape) and data.shape[-1] == 1:
        inputs = inputs[..., np.newaxis]  # grey images without an axis of channels
    if inputs.shape[1:] != data.shape or not inputs.size:
        shape = ", ".join(map(str, data.shape))
        raise DamagedData(
            f"{source} must hold examples of {data.source}, [n, {shape}], got "
            f"{list(inputs.shape)}."
        )
    low, high = float(inputs.min()), float(inputs.max())
    got = f"got {inputs.dtype} from {low:g} to {high:g}."
    integers = np.issubdtype(inputs.dtype, np.integer)
    if data.info.inputs == "text":
        words = data.vocabulary + text.FIRST_WORD
        if not (integers and low >= 0 and high < words):
            raise DamagedData(f"{source}: token ids are integers below {words}, {got}")
        return inputs.astype(np.int32)
    if integers and low >= 0 and high <= 255:
        return inputs.astype(np.uint8)
    if np.issubdtype(inputs.dtype, np.floating) and low >= 0.0 and high <= 1.0:
        return inputs.astype(np.float32)
    raise DamagedData(
        f"{source}: images are integers from 0 to 255, or floating in [0, 1], {got}"
    )
