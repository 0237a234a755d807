"""Your own data as a function returns them: `--data.path module:function`.

The function takes no argument and returns `train, test, validation`, or these and a
list of class names. Each is a pair of NumPy arrays, inputs and labels as in
`own_arrays`; test and validation may be None. The module is looked for in the working
directory too.
"""

import importlib
import os
import sys
import traceback

from experiments import configs
from experiments.data import own_arrays
from experiments.data.types import DamagedData, Dataset, MissingData


def load(data: configs.Data) -> Dataset:
    """Calls the function; see `datasets`."""
    module_name, colon, name = (data.path or "").partition(":")
    if not (module_name and colon and name):
        raise MissingData(
            f"--data.path must be module:function for --data.source python, got "
            f"{data.path!r}."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the module raises
        reason = f"{type(error).__name__}: {error}"
        raise MissingData(f"{data.path} cannot be imported: {reason}.") from error
    try:
        returned = function()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DamagedData(
            f"{data.path} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})."
        ) from error
    if not isinstance(returned, tuple | list) or not 1 <= len(returned) <= 4:
        raise DamagedData(
            f"{data.path} must return train, test and validation, each inputs and "
            f"labels, got {type(returned).__name__}."
        )
    splits = dict(zip(("train", "test", "validation"), returned[:3], strict=False))
    found = {split: pair for split, pair in splits.items() if pair is not None}
    for split, pair in found.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DamagedData(
                f"{data.path}: the {split} set must be inputs and labels, got "
                f"{type(pair).__name__}."
            )
    if "train" not in found:
        raise DamagedData(f"{data.path} returned no training set.")
    names = tuple(map(str, returned[3])) if len(returned) == 4 and returned[3] else ()
    return own_arrays.from_arrays(found, data, names)
