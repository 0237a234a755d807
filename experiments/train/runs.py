"""A run directory: start or resume a training, log it, and evaluate it."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

from experiments import commands, configs, models
from experiments.data.task import Task, load_task
from experiments.data.types import DamagedData, Examples
from experiments.models import posthoc_classifiers
from experiments.results import run_dir, run_log
from experiments.train import checkpoint, device_loop, loop, sharding, steps
from experiments.train.session import Session

# Seconds after which a host that is lost, and one that failed, stops the others; JAX's
# own are minutes. See docs/hosts.md.
HEARTBEAT, SHUTDOWN = 10, 60


def main(preset: str, run: configs.Run, session: Session, *, alone: bool = True) -> int:
    """Trains a run, or resumes it from the newest checkpoint of its directory.

    Args:
      preset: its name.
      run: what to train.
      session: directories, devices and loaders.
      alone: whether to leave the progress bar and say where the results are; False
        for one of many runs, whose caller shows their progress.

    Returns:
      Exit status: 0, or 130 if it was interrupted, after a checkpoint.

    Raises:
      BadConfiguration: the directory holds another run; names the differing fields.
      FloatingPointError: a loss was not finite.
    """
    if session.distributed:
        _join(session)
    out = session.out or _default_out(preset, run)
    first_host = jax.process_index() == 0
    layout = _layout(run, session)
    _require_jit(run, session)
    if session.steps_per_dispatch > 1:
        device_loop.require(run)
    require_same(out, run)
    try:
        task = load_task(
            run.data, run.seed, session.data_dir, download=session.download
        )
    except ValueError as error:  # more is asked for than there is
        raise configs.BadConfiguration(str(error)) from error
    total = run.epochs * loop.steps_per_epoch(run, task)

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(
            checkpoint.Checkpoints(
                out / run_dir.CHECKPOINTS, keep=session.checkpoints, log=_say
            )
        )
        start, step = _start(run, task, layout, session, saver)
        if start.position.epoch == run.epochs:
            if first_host and not _says_finished(out):  # it was stopped just before
                with _recorder(out, step, session, first_host) as recorder:
                    recorder.write(event="finished", step=step, seconds=0.0)
            _say(f"{out} is finished: {run.epochs} epochs, {step} steps.")
            return 0
        # Only now, so that a directory that is refused is left as it is.
        if first_host:
            out.mkdir(parents=True, exist_ok=True)
            write_config(out, preset, run, session, task)
        interrupted = stack.enter_context(_interruptible())
        recorder = stack.enter_context(_recorder(out, step, session, first_host))
        if step:
            _say(
                f"Resuming {out} at step {step} of {total} "
                f"(epoch {start.position.epoch + 1} of {run.epochs})."
            )
            recorder.write(event="resumed", step=step)
        progress = stack.enter_context(
            tqdm(
                total=total,
                initial=step,
                unit="step",
                desc=f"{preset}, {run.method.title}",
                # None: no bar where standard error is not a terminal.
                disable=None if first_host else True,
                leave=alone,
            )
        )
        began = time.monotonic()
        logger = RunLogger(run, session, recorder, progress, saver, interrupted)
        stack.callback(logger.close)
        try:
            loop.fit(run, task, layout, session, start, logger.callbacks())
        except KeyboardInterrupt:
            _say(f"Interrupted; the same command goes on from {out}.")
            return 130
        logger.close()
        recorder.write(event="finished", step=total, seconds=time.monotonic() - began)
    if first_host and alone:
        _say(f"Finished: {out}. Its report: python -m experiments report {out}")
    return 0


def train(preset: str, config: commands.Train) -> int:
    """Trains a run as the command line asks; see `main`."""
    return main(preset, config.run, config.session)


class RunLogger:
    """Logs a run: events, progress and checkpoints."""

    def __init__(
        self,
        run: configs.Run,
        session: Session,
        recorder: run_log.Recorder,
        progress: Any,
        saver: checkpoint.Checkpoints,
        interrupted: threading.Event,
    ) -> None:
        self._interrupted = interrupted
        self._run = run_log.plain(run)
        self._session = session
        self._recorder = recorder
        self._progress = progress
        self._saver = saver
        self._saved_at = time.monotonic()
        self._failures = 0
        self._steps = 0  # since the start of this process

    def callbacks(self) -> loop.Callbacks:
        """The callbacks for the loop."""
        return loop.Callbacks(
            self._recorder.write, self._stepped, self._due, self._save
        )

    def _stepped(self, step: int, shown: dict[str, float]) -> None:
        self._progress.set_postfix(
            {name: f"{value:.3g}" for name, value in shown.items()}, refresh=False
        )
        self._progress.update()

    def _due(self, step: int) -> bool:
        if jax.process_count() > 1:
            # Hosts save at the ends of epochs, which needs no agreement. Stopping
            # does: all stop at the same step, whichever host got the signal and when.
            # JAX takes the first step that it is asked about for 1.
            self._steps += 1
            if multihost_utils.reached_preemption_sync_point(self._steps):
                self._interrupted.set()
            return self._interrupted.is_set()
        late = time.monotonic() - self._saved_at >= self._session.checkpoint_seconds
        return late or self._interrupted.is_set()

    def _save(
        self, step: int, state: steps.TrainState, position: loop.Position
    ) -> None:
        self._write(step, state, position)
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _write(
        self, step: int, state: steps.TrainState, position: loop.Position
    ) -> None:
        metadata = {"position": position._asdict(), "run": self._run}
        self._saver.save(step, state, metadata)
        self._saved_at = time.monotonic()
        self._note_failures()

    def close(self) -> None:
        """Waits for the last checkpoint."""
        self._saver.wait()
        self._note_failures()

    def _note_failures(self) -> None:
        """Logs the checkpoints that could not be saved since the last call."""
        for step, reason in self._saver.failures[self._failures :]:
            self._recorder.write(event="save_failed", step=step, error=reason)
        self._failures = len(self._saver.failures)


def restore(
    out: pathlib.Path, kept: run_dir.Kept, layout: sharding.Layout
) -> tuple[int, steps.TrainState]:
    """The newest good checkpoint of a run.

    Args:
      out: run directory.
      kept: what was trained there.
      layout: devices.

    Returns:
      Its step, and the state.

    Raises:
      BadConfiguration: there is none.
    """
    run = kept.run
    program = steps.program(run, layout)
    like = program.init(
        steps.init_network(run, run.seed), run.seed, sum(kept.class_counts)
    )
    with checkpoint.Checkpoints(out / run_dir.CHECKPOINTS, keep=2, log=_say) as saver:
        found = _restore(saver, like, run)
    if found is None:
        raise configs.BadConfiguration(f"{out} has no checkpoint yet.")
    return found[0], found[1]


def evaluate(config: commands.Evaluate) -> int:
    """Evaluates the newest checkpoint of a run.

    Args:
      config: which.

    Returns:
      Exit status 0.
    """
    kept, task, layout, step, state = _reopen(
        config.dir, config.data_dir, config.devices
    )
    session = Session()
    program = steps.program(kept.run, layout)
    found: dict[str, Any] = {"step": step}
    for name in ("validation", "test"):
        examples = getattr(task, name)
        if examples is not None:
            found[name] = loop.evaluate(
                program, layout, state, examples, kept.run, task, session
            )
    text = json.dumps(run_log.plain(found), indent=2, allow_nan=False)
    (config.dir / run_dir.EVALUATION).write_text(text + "\n", encoding="utf-8")
    for name, summary in found.items():
        if name != "step":
            shown = {
                key: f"{value:.4f}"
                for key, value in summary.items()
                if isinstance(value, float)
            }
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in shown.items())}")
    print(f"Step {step}. All of it: {config.dir / run_dir.EVALUATION}")
    return 0


def features(
    out: pathlib.Path, data_dir: pathlib.Path | None = None, examples: int = 1000
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Penultimate features of a trained network: what enters its head.

    Args:
      out: run directory.
      data_dir: where the data sets are; None for where they were in training.
      examples: at most so many of each split, a subsample with a fixed seed.

    Returns:
      By split (`train`, `test`): features, float32 `[n, features]`, and labels `[n]`.
    """
    kept, task, layout, _, state = _reopen(out, data_dir, devices=1)
    found = {}
    for name in ("train", "test"):
        whole = getattr(task, name)
        rng = np.random.default_rng(0)
        count = min(examples, len(whole.labels))
        chosen = whole.take(rng.choice(len(whole.labels), count, replace=False))
        found[name] = _features(state, chosen, kept.run, layout), chosen.labels
    return found


class HeadInputs(NamedTuple):
    """Penultimate features of all splits, and the head that classifies them."""

    splits: dict[str, tuple[np.ndarray, np.ndarray]]  # features [n, features], labels
    kernel: np.ndarray  # float32 [features, classes]
    bias: np.ndarray | None  # float32 [classes]; None for a head without


def all_features(out: pathlib.Path, data_dir: pathlib.Path | None = None) -> HeadInputs:
    """Penultimate features of a trained network, of every example, not augmented.

    Args:
      out: run directory.
      data_dir: where the data sets are; None for where they were in training.

    Returns:
      By split (`train`, `validation` if there is one, `test`) features, float32, and
      labels as the training has them; and the head.
    """
    kept, task, layout, _, state = _reopen(out, data_dir, devices=1)
    splits = {
        name: (_features(state, examples, kept.run, layout), examples.labels)
        for name in ("train", "validation", "test")
        if (examples := getattr(task, name)) is not None
    }
    last_layer = head(state)
    bias = last_layer.get(("bias",))
    return HeadInputs(splits, last_layer[("kernel",)], bias)


def _features(
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    layout: sharding.Layout,
    session: Session | None = None,
) -> np.ndarray:
    """What enters the head, of examples in order, float32 `[n, features]`."""
    program = steps.program(run, layout)
    batches = loop.in_order(examples, run, layout, session or Session())
    # Padding is only at the end. Every host has all features, though not all examples.
    parts = [np.asarray(program.features(state, batch)) for batch in batches]
    return np.concatenate(parts)[: len(examples.labels)]


def head(state: steps.TrainState) -> dict[tuple[Any, ...], np.ndarray]:
    """The parameters of the head by name, whether they are trained or not."""
    return {
        path[1:]: np.asarray(value[...])
        for part in (state.params, state.frozen)
        for path, value in nnx.to_flat_state(part)
        if path[0] == "head"
    }


def _reopen(
    out: pathlib.Path, data_dir: pathlib.Path | None, devices: int | None
) -> tuple[run_dir.Kept, Task, sharding.Layout, int, steps.TrainState]:
    """Restores a trained network with its data set, for evaluation."""
    kept = run_dir.load(out)
    task = load_task(kept.run.data, kept.run.seed, data_dir or kept.data_dir)
    layout = sharding.layout(devices)
    step, state = restore(out, kept, layout)
    return kept, task, layout, step, state


def _join(session: Session) -> None:
    """Connects this process to the others of a distributed training."""
    try:
        jax.distributed.initialize(
            session.coordinator,
            session.processes,
            session.process,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except ValueError as error:  # it lacks what no cluster tells
        raise configs.BadConfiguration(str(error)) from error


def _default_out(preset: str, run: configs.Run) -> pathlib.Path:
    lam = f"-{run.method.lam:g}" if run.method.attends else ""
    return pathlib.Path(f"runs/{preset}-{run.method.name}{lam}-seed{run.seed}")


def _layout(run: configs.Run, session: Session) -> sharding.Layout:
    """The devices; the batch size must be a multiple of their number."""
    try:
        layout = sharding.layout(session.devices)
    except ValueError as error:
        raise configs.BadConfiguration(str(error)) from error
    if run.batch_size % layout.devices:
        raise configs.BadConfiguration(
            f"batch_size must be a multiple of the {layout.devices} devices, got "
            f"{run.batch_size}."
        )
    return layout


def _require_jit(run: configs.Run, session: Session) -> None:
    """Refuses `pmap` for methods whose rule takes the whole batch."""
    if run.method.baseline and session.parallel == "pmap":
        raise configs.BadConfiguration(
            f"{run.method.title} runs under --parallel jit, got pmap."
        )


def require_same(out: pathlib.Path, run: configs.Run) -> None:
    """Refuses a directory that holds another run.

    Args:
      out: run directory, or where one may be.
      run: what is to be there.

    Raises:
      BadConfiguration: another one is; names the differing fields.
    """
    if (out / run_dir.CONFIG).is_file():
        _compare(str(out), run_dir.load(out).run, run)


def _compare(where: str, there: configs.Run, here: configs.Run) -> None:
    """Refuses to go on with another run than the one that is there."""
    differing = checkpoint.differences(run_log.plain(there), run_log.plain(here))
    if differing:
        raise configs.BadConfiguration(
            f"{where} holds a run of another configuration:\n  "
            + "\n  ".join(differing)
            + "\nGive another --out, or the same configuration."
        )


def _start(
    run: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session,
    saver: checkpoint.Checkpoints,
) -> tuple[loop.Start, int]:
    """From the newest checkpoint, or from the first step."""
    drawn = loop.begin(run, task, layout, session)
    found = _restore(saver, drawn.state, run)
    if found is None:  # else what it started from is needed no more
        network = _network(run, task, layout, session)
        return loop.begin(run, task, layout, session, network), 0
    step, state, kept = found
    return loop.Start(state, loop.Position(**kept["position"])), step


def _restore(
    saver: checkpoint.Checkpoints, like: steps.TrainState, run: configs.Run
) -> tuple[int, steps.TrainState, dict[str, Any]] | None:
    """The newest intact checkpoint; errors become those of the command line."""
    try:
        found = saver.restore(like)
    except checkpoint.OtherConfiguration as error:
        raise configs.BadConfiguration(str(error)) from error
    except checkpoint.DamagedCheckpoint as error:
        raise DamagedData(str(error)) from error
    if found is not None:
        _compare(f"Checkpoint {found[0]}", run_dir.parse(found[2]["run"]), run)
    return found


def _network(
    run: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session,
) -> Any:
    """The network to start from: drawn, from published weights, or of stage one."""
    network = steps.init_network(run, run.seed)
    if run.model.pretrained is not None:
        models.pretrained.load(network, run.model.pretrained)
    if run.start_from is None:
        return network
    first = run_dir.load(run.start_from)
    there, here = _shape(first.run), _shape(run)
    heads = first.run.model.head, run.model.head
    remembers = heads[1] == "memory" != heads[0]
    if remembers or heads == ("linear", "scaled"):  # factors then stay as drawn: ones
        there["model"]["head"] = run.model.head
    if there != here:
        raise configs.BadConfiguration(
            f"{run.start_from} trained another network:\n  "
            + "\n  ".join(checkpoint.differences(there, here))
        )
    _, state = restore(run.start_from, first, layout)
    for part in (state.params, state.frozen, state.statistics):
        kept = [
            (path, value)
            for path, value in nnx.to_flat_state(part)
            if not (remembers and path[0] == "head")
        ]
        nnx.update(network, nnx.from_flat_state(kept))
    if run.new_head:
        nnx.update(network.head, nnx.state(steps.init_network(run, run.seed).head))
    elif remembers:
        _remember(network, state, first.run, task, layout, session)
    return network


def _remember(
    network: Any,
    state: steps.TrainState,
    first: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session,
) -> None:
    """Initialises OLTR's memory from stage one.

    Centroids are the class means of its features of the training examples as they are,
    and what recalls them is its head, if that is linear, as in OLTR's code.
    """
    features = _features(state, task.train, first, layout, session)
    means = posthoc_classifiers.class_means(
        features, task.train.labels, first.data.classes
    )
    network.head.centroids[...] = jnp.asarray(means)
    if first.model.head == "linear":
        last_layer = head(state)
        network.head.recalls.kernel[...] = jnp.asarray(last_layer[("kernel",)])
        network.head.recalls.bias[...] = jnp.asarray(last_layer[("bias",)])


def _shape(run: configs.Run) -> dict[str, Any]:
    """What decides the shapes of the parameters."""
    model = run_log.plain(run.model)
    for name in ("statistics_momentum", "dropout", "dtype", "pretrained"):
        del model[name]
    return {"model": model, "classes": run.data.classes}


def write_config(
    out: pathlib.Path,
    preset: str,
    run: configs.Run,
    session: Session,
    task: Task,
) -> None:
    """Writes the resolved configuration, devices and versions as config.json.

    Args:
      out: run directory; it exists.
      preset: its name.
      run: what is trained.
      session: directories, devices and loaders.
      task: the examples.
    """
    data_dir = session.data_dir and session.data_dir.resolve()
    resolved = {
        "preset": preset,
        "run": run,
        "data_dir": data_dir,
        "session": dataclasses.replace(session, data_dir=data_dir),
        "class_counts": task.class_counts,
        "devices": [str(device) for device in jax.devices()],
        "versions": run_log.versions(),
    }
    # Whole or not at all: another host may be reading it.
    run_log.save(out / run_dir.CONFIG, resolved)


def _recorder(
    out: pathlib.Path, step: int, session: Session, first_host: bool
) -> contextlib.AbstractContextManager[run_log.Recorder]:
    """The log of a run, continued at the checkpoint; only the first host writes."""
    return run_log.Recorder(
        out / run_dir.RECORDS if first_host else None,
        resume_at=step,
        tensorboard=out / run_dir.TENSORBOARD if session.tensorboard else None,
        log=_say,
    )


def _says_finished(out: pathlib.Path) -> bool:
    events, _ = run_log.events(out / run_dir.RECORDS)
    return any(event.get("event") == "finished" for event in events)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Lets the loop finish its step on a signal; a second signal stops it at once.

    Of several hosts all stop when one is interrupted: by SIGTERM, which JAX waits for
    and passes on.
    """
    stop, interrupted = threading.Event(), threading.Event()
    several = jax.process_count() > 1

    def interrupt(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            stop.set()

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # a log on a disk that is full
        tqdm.write(message, file=sys.stderr)
