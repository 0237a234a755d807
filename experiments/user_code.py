"""Functions of the user's own, given as `module:function`."""

import importlib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

from experiments import configs


def load(name: str, arguments: str = "") -> Callable[..., Any]:
    """The function of `module:function`; its `arguments` are for messages.

    The module is looked for in the working directory too. BadConfiguration if there is
    no such function, or the module cannot be imported.
    """
    module_name, _, path = name.partition(":")
    if not (module_name and path):
        raise configs.BadConfiguration(
            f"A function of your own is given as module:function, got {name!r}."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise configs.BadConfiguration(
                f"{module_name} cannot be imported: {error}."
            ) from error
        raise configs.BadConfiguration(
            f"There is no module {module_name} to take {path} from. It is looked for "
            f"in this directory ({pathlib.Path.cwd()}), and in PYTHONPATH."
        ) from error
    except Exception as error:
        raise configs.BadConfiguration(
            f"{module_name} cannot be imported: {_described(error)}."
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise configs.BadConfiguration(f"{module_name} has no {path}.")
        target = getattr(target, part)
    if not callable(target):
        takes = f" ({arguments})" if arguments else ""
        raise configs.BadConfiguration(
            f"{name} must be a function{takes}, got {type(target).__name__}."
        )
    return target


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls what is of `load`, or runs its code.

    BadConfiguration if it fails; says where in the module of that name.
    """
    try:
        return function(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        of_file = [frame for frame in frames if frame.filename == file]
        where = (
            f" ({of_file[-1].filename}, line {of_file[-1].lineno})" if of_file else ""
        )
        raise configs.BadConfiguration(
            f"{name} failed: {_described(error)}{where}"
        ) from error


def _described(error: Exception) -> str:
    """Kind and first line of an error."""
    message = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *message[:1]])
