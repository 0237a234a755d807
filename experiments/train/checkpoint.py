"""Checkpoints of a training run: Orbax writes them, this module verifies them.

A directory holds one folder a step. A folder gets its name when everything in it is on
the disk, by one rename, and it lists the digests of its files in `SHA256SUMS`: a folder
with a number for a name is a whole checkpoint, or one that was damaged later.

    120/  180/      checkpoints; `sha256sum --check SHA256SUMS` in one checks it by hand
    unfinished/     what is being written or removed; of a killed run, what it left
    damaged-240/    one that was found damaged, kept to be looked at
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.configs import BadConfiguration
from experiments.data.types import DamagedData
from experiments.results import run_log
from experiments.train import distributed

DIGESTS = "SHA256SUMS"
METADATA = "metadata.json"
OVERHEAD = 8_000  # bytes per array on top of its numbers: its description and blocks


class DamagedCheckpoint(DamagedData):
    """No checkpoint is what was written."""


class OtherConfiguration(BadConfiguration):
    """A checkpoint has the state of another run than the one that asks for it."""


class Failure(NamedTuple):
    """A checkpoint that could not be written."""

    step: int
    reason: str


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What differs between two configurations, as nested dicts.

    A line for each field, like `method.lam: 0.5 there, 1.0 here`; fields that only one
    of them has are `absent` in the other. What is the same in JSON is equal, so a tuple
    equals a list and an infinity its name; and so are two paths of one place, and one
    of which nothing is left and one of the same name.
    """
    old, new = (
        run_log.flat(run_log.to_jsonable(there)),
        run_log.flat(run_log.to_jsonable(here)),
    )
    return [
        f"{name}: {_shown(old, name)} there, {_shown(new, name)} here"
        for name in old | new
        if name not in old or name not in new or not _same(old[name], new[name])
    ]


def _same(there: Any, here: Any) -> bool:
    if there == here or not (isinstance(there, str) and isinstance(here, str)):
        return there == here
    moved = not os.path.exists(there) and os.path.exists(here)
    moved &= os.path.basename(there) == os.path.basename(here)
    return moved or os.path.realpath(there) == os.path.realpath(here)


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the disk.

    Steps rise, and `restore` comes before the first `save`. Several hosts make the same
    calls in the same order, in a directory that all of them see.

    Orbax's own `training.Checkpointer` is not used: it names a checkpoint before its
    digests can be written, when it has already removed older ones, so that a kill
    between the two can leave none that is whole. It removes files one by one under the
    name of the checkpoint, leaves what a failed save wrote, and begins to write in the
    caller's thread, which then waits about ten times as long.

    Args:
      directory: of these checkpoints and nothing else; made when the first is saved.
      keep: how many of the newest are kept. With one there is nothing to fall back on
        when it is damaged.
      log: called with a message for each checkpoint that failed or is damaged; while
        writing, from another thread.

    Attributes:
      failures: what could not be saved so far, oldest first.
    """

    def __init__(
        self, directory: pathlib.Path, *, keep: int, log: Callable[[str], None]
    ) -> None:
        self.failures: list[Failure] = []
        self._directory = pathlib.Path(directory).absolute()
        try:
            str(self._directory).encode()
        except UnicodeEncodeError as error:
            raise BadConfiguration(
                f"{str(directory)!r} is not UTF-8, as a path of checkpoints must be: "
                "give another --out."
            ) from error
        self._unfinished = self._directory / "unfinished"
        self._keep = keep
        self._log = log
        self._newest: int | None = None  # the last step restored or asked to be saved
        self._restored = False
        self._damaged: list[int] = []
        self._writing: threading.Thread | None = None
        from orbax.checkpoint import v1 as ocp  # a second of imports

        self._orbax, self._context = ocp, ocp.Context()
        # A folder that cannot be made is then an error at once. Made in the background,
        # it would leave Orbax's threads waiting for it for five minutes.
        self._context.async_options.create_directories_asynchronously = False
        self._context.array_options.saving.enable_write_sharding_file = False
        self._context.memory_options.deepcopy_host_arrays = False  # it is given copies
        # Weights hardly get smaller by it, and training waits for the same CPU.
        self._context.array_options.saving.use_compression = False
        self._primary = jax.process_index() == 0
        if jax.process_count() > 1:  # seconds that they wait for one that failed
            self._context.async_options.timeout_secs = 300

    @property
    def newest_saved(self) -> bool:
        """Whether the step that was last asked for, if any, was not a failure."""
        return not self.failures or self.failures[-1].step != self._newest

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, whole or damaged, in order."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Begins to write a checkpoint; returns when `state` may be overwritten.

        Waits until the one before is written. An error while writing goes to `log` and
        `failures`, and training goes on. A step that was asked for before is not
        written again.

        Args:
          step: number of updates made; a ValueError if it is below the one before.
          state: arrays of JAX on devices that they are committed to, typed random keys
            among them, in any tree. On several hosts, what is not spread over them is
            the same on all.
          metadata: position and configuration of the run, for JSON; a number that is
            not finite becomes a string.

        Raises:
          RuntimeError: there are checkpoints in the directory and `restore` was not
            called.
          TypeError: the metadata cannot be written.
        """
        if not self._restored and self.steps():
            raise RuntimeError(
                f"{self._directory} holds checkpoints of steps {self.steps()}: restore "
                "before saving, or take another directory."
            )
        if self._newest is not None and step < self._newest:
            raise ValueError(f"Steps must rise, got {step} after {self._newest}.")
        if step == self._newest:
            return
        self._restored, self._newest = True, step
        leaves = _named(state)
        described = {name: _described(leaf) for name, leaf in leaves.items()}
        note = {"metadata": run_log.to_jsonable(metadata), "state": described}
        text = json.dumps(note, allow_nan=False, indent=1)
        self.wait()
        try:
            for leaf in leaves.values():
                if not _is_key(leaf):
                    leaf.copy_to_host_async()
            arrays = {n: _stored(leaf) for n, leaf in leaves.items() if leaf.size}
            self._prepare(sum(array.nbytes + OVERHEAD for array in arrays.values()))
            if jax.process_count() > 1:  # Orbax's hosts meet here, and not in a thread
                written = self._begin(step, arrays).result
            else:
                written = lambda: self._begin(step, arrays).result()
        except Exception as error:
            self._fail(step, error)
            return
        self._writing = threading.Thread(
            target=self._finish, args=(step, written, text), name="checkpoint"
        )
        self._writing.start()

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk, or could not be."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest checkpoint that is whole: step, state and metadata, or None.

        Damaged ones that are newer are reported, and set aside at the next `save`.

        `like` is a state as it was given to `save`. The state has its tree and lies
        where its arrays lie, on other devices than those it was saved from if need be.

        Raises:
          DamagedCheckpoint: there are checkpoints, but none is whole; names them.
          OtherConfiguration: its state has other leaves, shapes or dtypes than `like`;
            lists what differs.
        """
        self.wait()
        step = self._newest_whole()
        self._restored = True
        if step is None:
            return None
        folder = self._directory / str(step)
        note = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        leaves = _named(like)
        described = {name: _described(leaf) for name, leaf in leaves.items()}
        if lines := differences(note["state"], described):
            raise OtherConfiguration(
                "\n  ".join([f"The state in {folder} is another one:", *lines])
            )
        # Every host reads everything, and puts what is its share where it belongs.
        wanted = {n: _on_host(leaf) for n, leaf in leaves.items() if leaf.size}
        with self._context:
            arrays = self._orbax.load(folder, wanted)
        self._newest = step
        values = [
            _placed(arrays[name] if name in arrays else _on_host(leaf), leaf)
            for name, leaf in leaves.items()
        ]
        state = jax.tree.unflatten(jax.tree.structure(like), values)
        return step, state, note["metadata"]

    def __enter__(self) -> Self:
        # Orbax logs the whole stack, several times over, of errors that it raises too.
        logging.getLogger("absl").addFilter(_not_of_orbax)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            logging.getLogger("absl").removeFilter(_not_of_orbax)

    def _newest_whole(self) -> int | None:
        """The newest step that is not damaged: found by one host, used by all."""
        found, damaged = -1, []
        for step in reversed(self.steps()) if self._primary else ():
            damage = _damage(self._directory / str(step))
            if damage is None:
                found = step
                break
            damaged.append(step)
            self._log(f"Checkpoint {step} is damaged: {damage}")
        of_first_host = multihost_utils.broadcast_one_to_all(
            np.array([found, len(damaged)], np.int32)
        )
        found, number = map(int, of_first_host)
        if found < 0 and number:
            raise DamagedCheckpoint(
                f"All checkpoints in {self._directory} are damaged "
                f"(steps {', '.join(map(str, self.steps()))}). Remove the directory to "
                "start over."
            )
        if found < 0:
            return None
        self._damaged = damaged
        if damaged:
            self._log(f"Going on from checkpoint {found}.")
        return found

    def _prepare(self, size: int) -> None:
        """Makes way for a checkpoint of so many bytes; raises on all hosts or on none.

        What could be known before is asked before: a host that fails while it writes
        keeps the others waiting for it.
        """
        problem = None
        if self._primary:
            try:
                shutil.rmtree(self._unfinished, ignore_errors=True)
                self._set_aside()
                self._unfinished.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self._unfinished).free
                if free < size:
                    raise OSError(
                        errno.ENOSPC,
                        f"{size} bytes are to be written, {free} are free",
                        str(self._unfinished),
                    )
            except OSError as error:
                problem = error
        elsewhere = OSError("the first host could not begin; see what it says")
        distributed.raise_together(problem, elsewhere)

    def _set_aside(self) -> None:
        """Renames what was found damaged, so that it is not in the way of new ones."""
        while self._damaged:
            step = self._damaged[-1]
            aside = self._directory / f"damaged-{step}"
            if aside.exists():
                shutil.rmtree(aside)
            os.rename(self._directory / str(step), aside)
            self._damaged.pop()
        aside = sorted(self._directory.glob("damaged-*"), key=os.path.getmtime)
        for folder in aside[: -self._keep]:
            shutil.rmtree(folder)

    def _begin(self, step: int, arrays: dict[str, Any]) -> Any:
        with self._context:
            return self._orbax.save_async(self._unfinished / str(step), arrays)

    def _finish(self, step: int, written: Callable[[], None], text: str) -> None:
        """Waits for Orbax, seals the checkpoint, and removes the oldest."""
        try:
            written()
            if self._primary:
                folder = self._unfinished / str(step)
                (folder / METADATA).write_text(text, encoding="utf-8")
                (folder / DIGESTS).write_text(_digests(folder), encoding="utf-8")
                for path in [folder, *folder.rglob("*")]:
                    _sync(path)
                os.rename(folder, self._directory / str(step))
                _sync(self._directory)
        except Exception as error:
            self._fail(step, error)
        else:
            if self._primary:
                self._remove_old()

    def _remove_old(self) -> None:
        """Keeps the newest; what cannot be removed now is tried again the next time."""
        for step in self.steps()[: -self._keep]:
            # Renamed first: a kill must not leave half of a checkpoint.
            with contextlib.suppress(OSError):
                os.rename(self._directory / str(step), self._unfinished / f"old-{step}")
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _fail(self, step: int, error: Exception) -> None:
        """Logs a failed save, and frees the disk space that it took."""
        if self._primary:
            _remove_written_to(self._unfinished)
        # What follows in brackets is how the file was opened, in hundreds of words.
        reason = re.split(r" \[(?:os_error|tensorstore)", str(error), maxsplit=1)[0]
        reason = f"{type(error).__name__}: {reason}"
        self.failures.append(Failure(step, reason))
        self._log(f"Step {step} could not be saved: {reason}")


def _not_of_orbax(message: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in message.pathname


def _shown(fields: dict[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"


# Files.


def _digests(folder: pathlib.Path) -> str:
    """What `sha256sum` prints of the files under a folder, sorted by name."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / DIGESTS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def _damage(folder: pathlib.Path) -> str | None:
    """In what the files are not as they were written."""
    try:
        written = (folder / DIGESTS).read_bytes().decode().split("\n")
        found = _digests(folder).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return f"{folder} cannot be read: {error}"
    if written == found:
        return None
    name = min(line.partition("  ")[2] for line in set(written) ^ set(found))
    return f"{folder / name} is not as it was written."


def _remove_written_to(folder: pathlib.Path) -> None:
    """Removes a folder that TensorStore may still write to; gives up after 5 seconds.

    The first array that fails ends Orbax's save. The others' threads go on, cannot be
    waited for, and make again the folders that they do not find.
    """
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            break


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Leaves. Orbax is given a flat dict of plain arrays, whatever the tree is made of.


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their paths, in the order of the tree."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if len(leaves) < len(jax.tree.leaves(tree)):
        raise TypeError("Two leaves of the state have the same path.")
    return leaves


def _is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _described(leaf: jax.Array) -> str:
    """Dtype and shape, like `float32[3, 3]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _stored(leaf: jax.Array) -> jax.Array | np.ndarray:
    """What Orbax writes of a leaf; later changes to it do not reach this."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not leaf.is_fully_addressable:
        return leaf
    # On a CPU this is a view. JAX does not reuse memory that NumPy looks at.
    return np.asarray(leaf)


def _on_host(leaf: jax.Array) -> np.ndarray:
    """Zeros as `_stored` would be, without the memory."""
    leaf = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _placed(value: np.ndarray, like: jax.Array) -> jax.Array:
    """The inverse of `_stored`, for a leaf like the one that is given."""
    array = jax.make_array_from_callback(value.shape, like.sharding, value.__getitem__)
    return jax.random.wrap_key_data(array, impl=like.dtype) if _is_key(like) else array
