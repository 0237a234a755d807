"""One JSON line per event."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any, Self


def plain(value: Any) -> Any:
    """What strict JSON can hold: an infinite or undefined float becomes a string.

    Args:
      value: dataclasses, mappings, sequences, arrays and scalars, however nested.

    Returns:
      Dicts, lists and scalars; `float("inf")` reads such a string back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX, arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Recorder:
    """Writes a file of JSON lines, each on the disk before the next begins.

    A line goes out in one system call, so an interrupt falls between lines, not into
    one.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._file = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644
        )

    def write(self, **event: Any) -> None:
        """Appends one line."""
        line = json.dumps(plain(event), allow_nan=False, ensure_ascii=False) + "\n"
        os.write(self._file, line.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The events of a file, in order."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
