"""Your own arrays: an .npz file, a directory of .npy files, or what a function returns.

Names of the arrays are those of Keras's mnist.npz (x_train, y_train, x_test, y_test),
or train_images, train_labels and the like, with `val` or `validation` for a validation
set; or x and y, or images and labels, where there is no split.

The function, `--data.path module:function`, takes no argument and returns `train, test,
validation`, or these and a list of class names. Each is a pair of NumPy arrays, inputs
and labels; test and validation may be None. The module is looked for in the working
directory too.
"""

import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import configs, user_code
from experiments.data import own
from experiments.data.types import DamagedData, Dataset, MissingData

INPUTS = ("x", "images", "data", "inputs", "features")
_LABELS = ("y", "labels", "label", "targets", "target")
_CHANNELS = (1, 3, 4)


def load(data: configs.Data) -> Dataset:
    """Loads arrays; see `datasets`."""
    if data.source == "python":
        return _called(data)
    path = own.path_of(data)
    arrays = read(path)
    if "" in arrays:
        raise DamagedData(
            f"{path} is a single array: give the directory that it is in, with the "
            "labels next to it, or an .npz."
        )
    splits, used = {}, []
    for split, aliases in own.SPLITS.items():
        spelled = [*aliases, ""] if split == "train" else aliases
        inputs, labels = (named(arrays, kind, spelled) for kind in (INPUTS, _LABELS))
        if inputs and labels:
            splits[split] = (arrays[inputs], arrays[labels])
            used += [inputs, labels]
        elif inputs or labels:
            raise DamagedData(
                f"{path} has {inputs or labels!r} and no "
                f"{'labels' if inputs else 'inputs'} to it; it has "
                f"{', '.join(arrays)}."
            )
    if "train" not in splits:
        raise DamagedData(
            f"{path} must have arrays x_train and y_train, or x and y, got "
            f"{', '.join(arrays) or 'none'}."
        )
    others = [name for name in arrays if name not in used]
    notes = [f"Not used, in {path}: {own.listed_names(others)}."] if others else []
    return _from_arrays(splits, data, notes=notes)


def _called(data: configs.Data) -> Dataset:
    """The arrays that a function returns."""
    name = data.path or ""
    returned = user_code.call(name, user_code.load(name))
    if not isinstance(returned, tuple | list) or not 1 <= len(returned) <= 4:
        raise DamagedData(
            f"{data.path} must return train, test and validation, each inputs and "
            f"labels, got {type(returned).__name__}."
        )
    splits = dict(zip(("train", "test", "validation"), returned[:3], strict=False))
    given = {split: pair for split, pair in splits.items() if pair is not None}
    for split, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DamagedData(
                f"{data.path}: the {split} set must be inputs and labels, got "
                f"{type(pair).__name__}."
            )
    if "train" not in given:
        raise DamagedData(f"{data.path} returned no training set.")
    names = returned[3] if len(returned) == 4 else None
    return _from_arrays(given, data, () if names is None else tuple(map(str, names)))


def _from_arrays(
    splits: Mapping[str, tuple[Any, Any]],
    data: configs.Data,
    class_names: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of images or of vectors, from inputs and labels by split.

    `class_names` are those of labels 0, 1, ...; () for the labels themselves. Images of
    bytes are kept; others, and vectors, are standardised by the training examples,
    channel by channel and column by column; so are images none of whose pixels exceeds
    1. DamagedData if they are not of one shape or scale, or labels are missing.
    """
    parts = {
        split: _part(f"{data.path}, {split} set", *pair, data)
        for split, pair in splits.items()
    }
    shape = parts["train"].inputs.shape[1:]
    for split, part in parts.items():
        if part.inputs.shape[1:] != shape:
            raise DamagedData(
                f"{data.path}: examples of the {split} set have the shape "
                f"{part.inputs.shape[1:]}, those of the training set {shape}."
            )
    stored = {
        f"the {split} set": (part.inputs, np.asarray(splits[split][0]).dtype)
        for split, part in parts.items()
    }
    require_one_scale(f"{data.path}: all sets must be of one scale", stored)
    bytes_ = all(part.inputs.dtype == np.uint8 for part in parts.values())
    bytes_ &= any(part.inputs.max(initial=0) > 1 for part in parts.values())
    if not bytes_:
        parts = {
            split: part._replace(inputs=part.inputs.astype(np.float32))
            for split, part in parts.items()
        }
    kind = "images" if len(shape) == 3 else "table"
    fit = None if bytes_ else own.standardise
    what = f"vectors of {shape[0]} numbers"
    if kind == "images":
        what = "images: height {}, width {}, channels {}".format(*shape)
    notes = [f"Examples are {what}.", *notes]
    return own.dataset(parts, data, kind, shape, fit, class_names, notes)


def require_one_scale(
    rule: str, stored: Mapping[str, tuple[np.ndarray, np.dtype[Any]]]
) -> None:
    """Raises DamagedData if one array is of bytes and another of fractions of 1.

    `stored` has each by what it is called, with the dtype that it had in its file.
    """
    found = {}  # one of each kind, in words
    for name, (x, dtype) in stored.items():
        if not x.size:
            continue
        low, high = np.fmin.reduce(x, axis=None), np.fmax.reduce(x, axis=None)
        whole = bool((x == np.round(x)).all())
        if low >= 0 and (1 < high <= 255 if whole else high <= 1):
            found[whole] = f"{name} is {dtype} from {low:g} to {high:g}"
    if len(found) == 2:
        raise DamagedData(
            f"{rule}, but {found[True]}, and {found[False]}. Divide bytes by 255 in "
            "both or in neither."
        )


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file or a directory by name; that of a .npy file has none, ""."""
    arrays = {}
    try:
        if path.is_dir():
            for file in sorted(path.glob("*.npy")):
                arrays[file.stem] = np.load(file, allow_pickle=False)
            if not arrays:
                raise MissingData(f"{path} has no .npy file.")
            return arrays
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise DamagedData(
            f"{path} is no .npz or .npy file of numbers or names. (It is damaged, of "
            "another format, or holds Python objects, which are not unpickled.)"
        ) from error


def named(
    arrays: Iterable[str], kinds: tuple[str, ...], splits: Iterable[str]
) -> str | None:
    """The name of the array of one kind and split, the first of those that are there.

    "" is for a name without a split. Capital letters are as small ones.
    """
    names = {name.lower(): name for name in arrays}
    for split in splits:
        for kind in kinds:
            for name in (f"{kind}_{split}", f"{split}_{kind}") if split else (kind,):
                if name in names:
                    return names[name]
    return None


def _part(where: str, inputs: Any, labels: Any, data: configs.Data) -> own.Part:
    """Checks one split."""
    if np.ma.is_masked(inputs) or np.ma.is_masked(labels):
        raise DamagedData(
            f"{where}: arrays must not be masked. A missing input is NaN, as "
            "x.astype(float).filled(np.nan) makes it; no label may be missing."
        )
    x, y = np.asarray(inputs), np.asarray(labels)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y):
        raise DamagedData(
            f"{where}: labels must be a vector, one for each input, got the shapes "
            f"{x.shape} of inputs and {y.shape} of labels."
        )
    x = as_stored(where, x, data)
    if y.dtype.kind == "f":
        bad = ~np.isfinite(y)
        if bad.any():
            raise DamagedData(
                f"{where}, example {int(bad.argmax())}: the label is {y[bad][0]}."
            )
        whole = y == np.round(y)
        if not whole.all():
            raise DamagedData(
                f"{where}, example {int((~whole).argmax())}: a label must be a whole "
                f"number or a name, got {y[~whole][0]}."
            )
        y = y.astype(np.int64)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8")
    for index, label in enumerate(labels := y.tolist()):
        if label is None or str(label).strip().lower() in own.MISSING:
            raise DamagedData(
                f"{where}, example {index}: the label is missing, got {label!r}. "
                f"{own.MISSING_RULE}"
            )
        if not isinstance(label, str | int):
            raise DamagedData(
                f"{where}, example {index}: a label must be a whole number or a name, "
                f"got {label!r}."
            )
    return own.Part(x, labels, lambda index: f"{where}, example {index}")


def as_stored(where: str, x: np.ndarray, data: configs.Data) -> np.ndarray:
    """Images as `[n, height, width, channels]`, of bytes if possible, or vectors.

    Images may have come as `[n, height, width]` or `[n, channels, height, width]`; a
    number may be missing, NaN. Channels are the one of axes 1 and 3 that has 1, 3 or 4
    entries; if both have or neither, the one without which the two others are equal.
    Where that is both or neither too, only what a function returns is taken, as it is.

    DamagedData if they are of another shape, no numbers, or not finite in float32.
    """
    if x.dtype.kind not in "uifb":
        raise DamagedData(f"{where}: inputs must be numbers, got {x.dtype}.")
    if x.ndim == 3:
        x = x[..., np.newaxis]
    elif x.ndim == 4:
        first, last = x.shape[1] in _CHANNELS, x.shape[3] in _CHANNELS
        if first == last:
            first, last = x.shape[2] == x.shape[3], x.shape[1] == x.shape[2]
        if first == last and data.source != "python":
            raise DamagedData(
                f"{where}: it must be plain which axis has the channels, got the shape "
                f"{x.shape}: just one of axes 1 and 3 has 1, 3 or 4 entries, or height "
                "and width are equal and channels another number. Return such images "
                "from a function (--data.source python) as [n, height, width, "
                "channels], which np.moveaxis(x, 1, 3) makes of [n, channels, height, "
                "width]."
            )
        if first and not last:
            x = x.transpose(0, 2, 3, 1)
    if x.ndim not in (2, 4) or 0 in x.shape[1:]:
        raise DamagedData(
            f"{where}: inputs must be images [n, height, width(, channels)] or vectors "
            f"[n, columns], got the shape {x.shape}."
        )
    if x.ndim == 4 and x.dtype.kind != "f":
        fits = x.size and x.min() >= 0 and x.max() <= 255
        return x.astype(np.uint8) if fits else x
    with np.errstate(over="ignore"):  # it is refused below
        stored = x.astype(np.float32)
    infinite = np.isinf(stored)
    if infinite.any():
        row = int(infinite.reshape(len(x), -1).any(axis=1).argmax())
        raise DamagedData(
            f"{where}, example {row}: an input must be finite in float32, got "
            f"{x[infinite][0]:g}."
        )
    return stored
