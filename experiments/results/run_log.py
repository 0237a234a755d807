"""The log of a run: one JSON line per event, and TensorBoard's files."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, Self

from experiments.configs import BadConfiguration


def to_jsonable(value: Any) -> Any:
    """Converts a value for strict JSON: a float that is not finite becomes a string.

    Dataclasses, mappings, sequences, arrays and scalars, however nested, become dicts,
    lists and scalars; `float("inf")` parses such a string.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_jsonable(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX, arrays and scalars
        return to_jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def save(path: pathlib.Path, value: Any) -> None:
    """Writes what `to_jsonable` takes as strict JSON, as `save_text` does."""
    text = json.dumps(to_jsonable(value), indent=2, allow_nan=False, ensure_ascii=False)
    save_text(path, text + "\n")


def save_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file by one rename: a kill leaves the old one or the new one.

    The directory is made if need be. What is no file, such as a pipe, is written to.
    Names of files that are not UTF-8 have escapes, which JSON reads as the names.
    """
    data = text.encode(errors="backslashreplace")
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def load(path: pathlib.Path) -> dict[str, Any]:
    """What `save` wrote, of a mapping; {} without a file.

    Raises BadConfiguration where it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise BadConfiguration(
            f"{path} is damaged ({error}). Remove it: the command that wrote it writes "
            "it again."
        ) from error
    return loaded


def save_csv(path: pathlib.Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, as `save_text` does."""
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    save_text(path, table.getvalue())


class Recorder:
    """Writes a file of JSON lines, each on the disk before the next begins.

    A line goes out in one system call, so an interrupt falls between lines, not into
    one. What a full disk does not take is kept, and tried again with the next event.
    Raises OSError when it is closed, if there still are events that could not be
    written.

    Args:
      path: of the file; None writes nothing, for hosts that leave it to the first.
      resume_at: step at which the training goes on: epochs after it are dropped, for
        they are trained again. None truncates the file.
      tensorboard: directory for the numbers of every epoch as TensorBoard reads them.
      log: called with a message when an event cannot be written. None raises OSError
        instead.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        *,
        resume_at: int | None = None,
        tensorboard: pathlib.Path | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._file = self._curves = None
        self._unwritten = b""
        if path is None:
            return
        self._folder, self._log = path.parent, log
        if resume_at is not None:
            _keep_until(path, resume_at)
        truncate = os.O_TRUNC if resume_at is None else 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | truncate
        self._file = os.open(path, flags, 0o644)
        if tensorboard is not None:
            self._curves = _Curves(tensorboard, 0 if resume_at is None else resume_at)

    def write(self, **event: Any) -> None:
        """Appends one line."""
        if self._file is None:
            return
        event = to_jsonable(event)
        line = json.dumps(event, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            self._write(line.encode())
            if self._curves is not None and event.get("event") == "epoch":
                self._curves.write(event["step"], flat(event, "/"))
        except OSError as error:
            if self._log is None:
                raise
            self._log(f"An event could not be written in {self._folder}: {error}")

    def _write(self, line: bytes) -> None:
        # Taken first, so that an interrupt after the call does not write it again.
        lines, self._unwritten = self._unwritten + line, b""
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
        except OSError:
            self._unwritten = lines
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._curves is not None:
            self._curves.close()
        if self._file is not None:
            try:
                self._write(b"")
            finally:
                os.close(self._file)


class _Curves:
    """Numbers by step, in TensorBoard's files; those after `resume_at` are not shown.

    On the disk when they are written, by the writer inside tensorboardX's
    `SummaryWriter`: that one leaves it to a thread, which a kill takes with it, and
    waits for ever where the disk is full.
    """

    def __init__(self, directory: pathlib.Path, resume_at: int) -> None:
        self._directory = directory
        self._purge_from = resume_at + 1
        self._writer: Any = None

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes the values that are numbers.

        Raises OSError if the disk refuses; the next step begins another file.
        """
        from tensorboardX.event_file_writer import EventsWriter  # a second of imports
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        try:
            if self._writer is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                path = str(self._directory / "events")
                self._writer = EventsWriter(path, f".{time.time_ns()}")
                began = {"session_log": SessionLog(status=SessionLog.START)}
                event = Event(wall_time=time.time(), step=self._purge_from, **began)
                self._writer.write_event(event)
            for name, value in values.items():
                if not isinstance(value, int | float):
                    continue
                summary = scalar(name, value)
                event = Event(wall_time=time.time(), step=step, summary=summary)
                self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """What could not be written is left out."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


def _keep_until(path: pathlib.Path, step: int) -> None:
    """Drops epochs after a step, a later end, and a last line that was cut off."""
    if not path.exists():
        return
    kept = [
        event
        for event in events(path)[0]
        if event.get("event") not in ("epoch", "finished", "diverged")
        or event.get("step", math.inf) <= step
    ]
    lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)


def append(path: pathlib.Path, records: Iterable[Any]) -> None:
    """Appends JSON lines, each what `to_jsonable` takes, in one call.

    Other processes do not cut into it. The file and its directory are made if need be;
    a last line that was torn is ended first. Raises OSError if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(to_jsonable(one), ensure_ascii=False) + "\n" for one in records]
    data = "".join(lines).encode()
    with path.open("a+b", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        while data:
            data = data[file.write(data) :]


def events(path: pathlib.Path, *fields: str) -> tuple[list[dict[str, Any]], int]:
    """The events of a file in order, and how many lines are not one.

    The file may not be there yet, may still be written to, or was torn by a crash.
    Raises BadConfiguration where an event lacks one of the fields.
    """
    parsed = []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError:  # of JSON, or of UTF-8
            event = None
        if isinstance(event, dict):
            parsed.append(event)
            for field in fields:
                if field not in event:
                    raise BadConfiguration(
                        f"{path}, line {number}, is no record of this command: it has "
                        f"no {field!r}. Give another file."
                    )
    return parsed, len(lines) - len(parsed)


def flat(fields: dict[str, Any], by: str = ".") -> dict[str, Any]:
    """Nested names joined by dots, or by another string.

    Examples:
      >>> flat({"a": {"b": 1}}), flat({"a": {"b": 1}}, "/")
      ({'a.b': 1}, {'a/b': 1})
    """
    flattened: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            inside = flat(value, by)
            flattened |= {f"{name}{by}{inner}": inside[inner] for inner in inside}
        else:
            flattened[name] = value
    return flattened


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    names = ("jax", "flax", "optax", "numpy", "scikit-learn")
    installed = {name: metadata.version(name) for name in names}
    return installed | {"python": sys.version.split()[0]}
