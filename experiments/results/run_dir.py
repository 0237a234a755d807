"""A run directory: the names of its files, and its configuration."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pydantic

from experiments import configs
from experiments.train.session import Session

CONFIG, RECORDS, CHECKPOINTS = "config.json", "records.jsonl", "checkpoints"
TENSORBOARD, EVALUATION = "tensorboard", "evaluation.json"


class Kept(NamedTuple):
    """The configuration of a run directory."""

    preset: str | None
    run: configs.Run
    data_dir: pathlib.Path | None  # where the data were in training
    class_counts: list[int]  # training examples of each class
    session: Session = Session()  # without its run directory and the hosts of a cluster
    extended: tuple[int, ...] = ()  # epochs that it was to have before, in order


def load(out: pathlib.Path) -> Kept:
    """Loads the configuration of a run directory.

    Args:
      out: run directory.

    Returns:
      Preset, run and data.

    Raises:
      BadConfiguration: there is no such directory, or no config of a run in it.
    """
    if not out.is_dir():
        raise configs.BadConfiguration(f"There is no directory {out}.")
    if not (out / CONFIG).is_file():
        raise configs.BadConfiguration(
            f"{out} is not the directory of a run: it has no {CONFIG}."
        )
    return load_file(out / CONFIG)


def load_file(path: pathlib.Path) -> Kept:
    """Loads a configuration that a run has written.

    Args:
      path: of its config.json.

    Returns:
      Preset, run and data.

    Raises:
      BadConfiguration: there is no such file, or it is not the config of a run.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        data_dir = kept.get("data_dir")
        session = pydantic.TypeAdapter(Session).validate_python(kept.get("session", {}))
        return Kept(
            preset=kept.get("preset"),
            run=parse(kept["run"]),
            data_dir=pathlib.Path(data_dir) if data_dir else None,
            class_counts=[int(count) for count in kept["class_counts"]],
            session=_anywhere(session),
            extended=tuple(int(epochs) for epochs in kept.get("extended", ())),
        )
    except OSError as error:
        raise configs.BadConfiguration(
            f"{path} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise configs.BadConfiguration(
            f"{path} is not the config of a run: {error}"
        ) from error


def _anywhere(session: Session) -> Session:
    """A session without what holds only where and when it was given."""
    of_cluster = {"coordinator": None, "processes": None, "process": None}
    return dataclasses.replace(session, out=None, distributed=False, **of_cluster)


def parse(run: dict[str, Any]) -> configs.Run:
    """Parses a run from JSON. A field that is newer than the file has its default."""
    return pydantic.TypeAdapter(configs.Run).validate_python(run)


@contextlib.contextmanager
def claim(out: pathlib.Path) -> Iterator[bool]:
    """Locks a directory against other processes of this machine.

    Args:
      out: the directory, which is made if it is not there.

    Yields:
      Whether this process holds the lock. It is released at the end; that of a process
      that has died counts for nothing.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "claimed"
    with contextlib.suppress(FileNotFoundError, ValueError):
        owner = int(path.read_text(encoding="utf-8"))
        if not _lives(owner):
            path.unlink()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
