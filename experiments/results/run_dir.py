"""A run directory: the names of its files, and its configuration."""

import contextlib
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import shlex
import socket
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import pydantic

from experiments import configs
from experiments.train.session import Session

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONFIG, RECORDS, CHECKPOINTS = "config.json", "records.jsonl", "checkpoints"
TENSORBOARD, EVALUATION, LOCK = "tensorboard", "evaluation.json", "lock"
SUSPECTS, SUSPECTS_ARRAYS = "suspects.csv", "suspects.npz"  # of the command `suspects`
# In the directory of a grid: what its trials share, and their run directories.
GRID, TRAININGS = "grid.json", "runs"
_KEPT = (  # the fields of `CONFIG`
    "preset", "run", "data_dir", "session", "class_counts", "class_names", "devices",
    "versions", "extended",
)  # fmt: skip
_T = TypeVar("_T")


class SavedRun(NamedTuple):
    """The configuration of a run directory."""

    preset: str | None
    run: configs.Run
    data_dir: pathlib.Path | None  # where the data were in training
    class_counts: list[int]  # training examples of each class
    session: Session = Session()  # without its run directory and the hosts of a cluster
    extended: tuple[int, ...] = ()  # epochs that it was to have before, in order


def load(out: pathlib.Path) -> SavedRun:
    """Loads the configuration of a run directory.

    What a second stage starts from is looked for next to it where it has moved. Raises
    BadConfiguration where there is no such directory, or no config of a run, or it
    lacks what was read from your own data.
    """
    if not out.is_dir():
        raise configs.BadConfiguration(f"There is no directory {out}.")
    if not (out / CONFIG).is_file():
        raise configs.BadConfiguration(
            f"{out} is not the directory of a run: it has no {CONFIG}."
        )
    kept = load_file(out / CONFIG)
    first = kept.run.start_from
    if first is not None and not first.exists():  # both may have moved
        moved = out.resolve().parent / first.name
        if (moved / CONFIG).is_file():
            run = dataclasses.replace(kept.run, start_from=moved)
            kept = kept._replace(run=run)
    if not kept.run.data.known:
        raise configs.BadConfiguration(
            f"{out / CONFIG} has no run.data.contents, so the classes and the shape of "
            "an example are not known. Train again, which reads them from your data: "
            f"train --config {shlex.quote(str(out / CONFIG))} --out DIR"
        )
    return kept


def load_file(path: pathlib.Path) -> SavedRun:
    """Loads the config.json of a run.

    Raises BadConfiguration where there is none, or it is not the config of a run.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        data_dir, run = kept.get("data_dir"), parse(kept["run"])
        _refuse_unknown(kept, _KEPT)
        session = _parsed(Session, kept.get("session", {}), "session")
        # Without what holds only where and when it was given.
        of_cluster = {"coordinator": None, "processes": None, "process": None}
        session = dataclasses.replace(
            session, out=None, distributed=False, **of_cluster
        )
        return SavedRun(
            preset=kept.get("preset"),
            run=run,
            data_dir=pathlib.Path(data_dir) if data_dir else None,
            class_counts=[int(count) for count in kept["class_counts"]],
            session=session,
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


def parse(run: dict[str, Any]) -> configs.Run:
    """Parses a run from JSON. A field that is newer than the file has its default.

    ValueError if a field is unknown, or a whole section such as `optimizer` is missing.
    """
    return _parsed(configs.Run, run, "run")


def _parsed(kind: type[_T], given: Any, name: str) -> _T:
    """Parses a configuration, whose field in the file has that name."""
    _check_fields(kind, given, name)
    return _parser(kind).validate_python(given)


# Making one takes far longer than parsing, and reports read many runs.
_parser = functools.cache(pydantic.TypeAdapter)


def _check_fields(kind: Any, given: Any, name: str) -> None:
    """Refuses unknown fields, at any depth, and the absence of a nested one."""
    if not isinstance(given, Mapping):
        return  # of another type, or None, which the parser judges
    hints = typing.get_type_hints(kind)
    _refuse_unknown(given, hints, f"{name}.")
    for field, hint in hints.items():
        if dataclasses.is_dataclass(hint) and field not in given:
            raise ValueError(f"it has no {name}.{field}.")
        for nested in filter(dataclasses.is_dataclass, (hint, *typing.get_args(hint))):
            _check_fields(nested, given.get(field), f"{name}.{field}")


def _refuse_unknown(
    given: Mapping[str, Any], known: Collection[str], prefix: str = ""
) -> None:
    for field in given:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            meant = f" (for {prefix}{close[0]}?)" if close else ""
            raise ValueError(
                f"there is no field {prefix}{field}. It is misspelled{meant}, or of "
                "another version of this programme. Correct it, or take it out."
            )


class Locked(configs.BadConfiguration):
    """Another process works in a directory; the message names its host and id."""


@contextlib.contextmanager
def lock(out: pathlib.Path, name: str | None = None) -> Iterator[None]:
    """Locks a directory, or a file, against other processes, as long as this one lives.

    The kernel releases the lock of a process that ends, however it does, on this host
    and through NFS on others. Where the file system has no such locks, what counts is
    the process that the file `LOCK` names: on this host whether it lives. Windows locks
    nothing.

    The directory is made if it is not there, and what was made is removed again if
    nothing was put into it. With the name of a file, which need not be there, only that
    file in it is locked. Raises Locked where another process holds the lock, and
    OSError where the directory cannot be made or written to.
    """
    if fcntl is None:
        out.mkdir(parents=True, exist_ok=True)
        yield
        return
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    path = out / (LOCK if name is None else f"{name}.{LOCK}")
    file = _open_locked(path)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
        with contextlib.suppress(OSError):  # something is in it
            for folder in made:
                folder.rmdir()


@contextlib.contextmanager
def claim(out: pathlib.Path) -> Iterator[bool]:
    """Locks a directory as `lock` does, if it is free; yields whether it was."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(out))
        except Locked:
            yield False
            return
        yield True


def _open_locked(path: pathlib.Path) -> int:
    """Opens and locks the file; raises `Locked` if another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its last owner has removed the directory
            continue
        try:
            owner = os.read(file, 1000).decode(errors="replace").split()
            if not _try_lock(file, owner):
                raise Locked(_in_use(path, owner))
            # Its last owner may have removed it since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _try_lock(file: int, owner: list[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    match owner:
        case [process, host] if process.isdigit() and host == socket.gethostname():
            return int(process) != os.getpid() and not _lives(int(process))
        case [_, _]:
            return False
    return True


def _in_use(path: pathlib.Path, owner: list[str]) -> str:
    process, host = owner if len(owner) == 2 else ("unknown", "unknown")
    locked = path.parent if path.name == LOCK else path.with_suffix("")
    return (
        f"{locked} is in use: process {process} on host {host} trains there. Wait "
        f"until it has ended, stop it, or give another --out. If it is gone, remove "
        f"{path}."
    )


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
