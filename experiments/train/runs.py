"""A run directory: start or resume a training, and log it; then see `evaluation`."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

from experiments import commands, configs, methods, models
from experiments.data import datasets, own
from experiments.data.task import Task
from experiments.models import posthoc_classifiers
from experiments.results import aggregate, example_losses, run_dir, run_log
from experiments.train import (
    checkpoint,
    device_loop,
    distributed,
    evaluation,
    loop,
    progress,
    sharding,
    steps,
)
from experiments.train.progress import say
from experiments.train.session import Session

# Seconds after a checkpoint in which an epoch ends without one. To save a small state
# takes a tenth of a second, which is longer than its epochs may take.
SOON = 1.0


def main(
    preset: str,
    run: configs.Run,
    session: Session,
    *,
    quiet: bool = False,
    extended: Sequence[int] | None = None,
) -> int:
    """Trains a run, or resumes it from the newest checkpoint of its directory.

    One of many runs, whose caller shows the progress, is `quiet`: it removes its bar at
    the end, and prints nothing else of the progress. `extended` are the epochs that the
    run was to have before, if it is trained for more, for config.json; None for those
    that are there. The exit status is 0, or 130 if it was interrupted, after a
    checkpoint.

    Raises:
      BadConfiguration: the directory holds another run, and the differing fields are
        named; or another process trains there.
      FloatingPointError: a loss was not finite; says what to try.
      NotSaved: the last checkpoint could not be written.
    """
    if session.distributed:
        distributed.join(session)
    out = session.out or _default_out(preset, run)
    first_host = jax.process_index() == 0
    layout = sharding.layout(session.devices)
    if run.batch_size % layout.devices:
        raise configs.BadConfiguration(
            f"batch_size must be a multiple of the {layout.devices} devices, got "
            f"{run.batch_size}."
        )
    whole = run.method.title if run.method.baseline else run.model.custom
    if whole and session.parallel == "pmap":  # they take the whole batch
        raise configs.BadConfiguration(f"{whole} runs under --parallel jit, got pmap.")
    if session.steps_per_dispatch > 1:
        device_loop.require(run)
    if extended is None and (out / run_dir.CONFIG).is_file():
        there = run_dir.load(out)
        evaluation.require_same(f"{out} holds a run", there.run, run)
        extended = there.extended
    elif (out / run_dir.GRID).is_file() and not (out / run_dir.CONFIG).is_file():
        raise configs.BadConfiguration(
            f"{out} is the directory of many runs, by its {run_dir.GRID}: give another "
            "--out."
        )
    extended = tuple(extended or ())
    tell = say if first_host and not quiet else lambda message: None

    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.locked(out))
        tell(f"Reading {run.data.source}.")
        task = evaluation.task_of(run, session)
        if run.data.info.own:
            for line in datasets.load(run.data, None).notes:  # which it has just read
                tell(line)
            tell(f"Classes: {own.listed_names(run.data.class_names)}.")
        tell(f"Building {run.model.title}.")
        models.check(run.model, run.data)
        total = run.epochs * loop.steps_per_epoch(run, task)
        saver = stack.enter_context(
            checkpoint.Checkpoints(
                out / run_dir.CHECKPOINTS, keep=session.checkpoints, log=say
            )
        )
        start, step = _start(run, task, layout, session, saver, extended)
        if start.position.epoch == run.epochs:
            if first_host and not aggregate.read(out).finished:  # stopped just before
                with _recorder(out, step, session) as recorder:
                    recorder.write(event="finished", step=step, seconds=0.0)
            if first_host and run_dir.load(out).run.data.path != run.data.path:
                write_config(out, preset, run, session, task, extended)
            reached = f"{out} is finished: {run.epochs} epochs, {step} steps"
            say(f"{reached}{_reached(out)}.")
            return 0
        # Only now, so that a directory that is refused is left as it is.
        if first_host:
            write_config(out, preset, run, session, task, extended)
        interrupted = stack.enter_context(_interruptible())
        recorder = stack.enter_context(_recorder(out, step, session))
        if step:
            say(
                f"Resuming {out} at step {step} of {total} "
                f"(epoch {start.position.epoch + 1} of {run.epochs})."
            )
            recorder.write(event="resumed", step=step)
        updates = stack.enter_context(
            tqdm(
                total=total,
                initial=step,
                unit="step",
                # The name of a trial's directory tells it from the others of its grid.
                desc=out.name if quiet else f"{preset}, {run.method.title}",
                # None: no bar where standard error is not a terminal.
                disable=None if first_host else True,
                leave=not quiet,
            )
        )
        logger = RunLogger(
            run,
            session,
            recorder,
            saver,
            interrupted.is_set,
            updates,
            tell=tell,
            losses_in=out if session.record_losses else None,
        )
        if jax.process_count() > 1:
            dispatches = lambda: logger.dispatches
            stack.enter_context(
                distributed.bounded_wait(dispatches, session.stall_timeout_seconds)
            )
        tell("Compiling the step; the first update comes after it.")
        try:
            logger.fit(task, layout, start)
        except KeyboardInterrupt:
            lost = "" if logger.saved else " The last steps could not be saved."
            say(
                f"Interrupted; the same command goes on from {out}, or: "
                f"python -m experiments resume {shlex.quote(str(out))}{lost}"
            )
            return 130
    if first_host and not quiet:
        report = f"python -m experiments report {shlex.quote(str(out))}"
        say(f"Finished{_reached(out)}. In {out}; its report: {report}")
    return 0


def _reached(out: pathlib.Path) -> str:
    """The accuracies of the last epoch, in words."""
    epochs = aggregate.read(out).epochs
    return progress.accuracies(epochs[-1] if epochs else None)


def train(preset: str, config: commands.Train) -> int:
    """Trains a run as the command line asks; see `main`."""
    return main(preset, config.run, config.session)


def resume(config: commands.Resume) -> int:
    """Goes on with a run as its directory says, perhaps for more epochs; see `main`."""
    out, kept = config.dir, run_dir.load(config.dir)
    run, extended = kept.run, kept.extended
    session = dataclasses.replace(
        kept.session,
        out=out,
        data_dir=config.data_dir or kept.data_dir,
        devices=config.devices or kept.session.devices,
    )
    result = aggregate.read(out)
    done = result.epochs[-1]["epoch"] if result.epochs else 0
    if done and not (out / run_dir.CHECKPOINTS).is_dir():
        raise configs.BadConfiguration(
            f"{out} has no checkpoint to go on from: the runs of a demo or a sweep "
            f"keep none. Train it again: python -m experiments train --config "
            f"{shlex.quote(str(out / run_dir.CONFIG))} --out DIR"
        )
    if config.epochs not in (None, run.epochs):
        if config.epochs <= done:
            raise configs.BadConfiguration(
                f"{out} is trained for {done} epochs already. --epochs counts them "
                f"too, and must be more, got {config.epochs}."
            )
        run = dataclasses.replace(run, epochs=config.epochs)
        run.refuse_too_late()
        say(_change(kept.run, run, done))
        extended = (*extended, kept.run.epochs)
    preset = kept.preset or run.data.source
    return main(preset, run, session, extended=extended)


def _change(before: configs.Run, after: configs.Run, done: int) -> str:
    """What another number of epochs does to the schedule, in words."""

    def at(run: configs.Run, epoch: int) -> str:
        hyperparams = methods.step_hyperparams(run, 1, epoch)
        fixed = run.method.attends and run.method.rho is None  # else λ adapts
        lam = f" and λ = {hyperparams.lam:g}" if fixed else ""
        return f"a learning rate of {hyperparams.learning_rate:.3g}{lam}"

    said = (
        f"Now of {after.epochs} epochs, not {before.epochs}. Schedule points are "
        f"fractions of the epochs, so they move: epoch {done + 1} trains with "
        f"{at(after, done)}"
    )
    said += f" (epoch {done} had {at(before, done - 1)})." if done else "."
    if after.method.weights and after.method.start_at:
        begins = after.epoch_at(after.method.start_at) + 1
        said += f" {after.method.info.title} weights examples from epoch {begins} on"
        said += f" (before: {before.epoch_at(before.method.start_at) + 1})."
    if after.optimizer.decay == "drops" and after.optimizer.drop_at:
        drops = [str(after.epoch_at(share)) for share in after.optimizer.drop_at]
        said += f" The learning rate drops at the end of epoch {' and '.join(drops)}."
    return said


class Interrupted(KeyboardInterrupt):
    """A training was stopped after a checkpoint."""


class NotSaved(OSError):
    """A training came to its end, and its last checkpoint could not be written."""


@dataclasses.dataclass
class RunLogger:
    """Trains a run, and logs it: events, progress and checkpoints."""

    run: configs.Run
    session: Session  # how the step is run, and the time between two checkpoints
    recorder: run_log.Recorder
    saver: checkpoint.Checkpoints
    interrupted: Callable[[], bool]  # asked after every dispatch: save and stop?
    bar: Any = None  # of updates; None for none
    save_at: Collection[int | None] | None = None  # epochs that are saved; None for all
    tell: Callable[[str], None] = lambda line: None  # takes a line after every epoch
    losses_in: pathlib.Path | None = None  # run directory that keeps examples' losses
    dispatches: int = 0  # of several hosts, since the start of this process

    def __post_init__(self) -> None:
        self._stops = False
        self._saved_at = time.monotonic()
        self._failures = 0
        self._last = self.run.epochs  # epochs until `fit` stops

    def fit(
        self,
        task: Task,
        layout: sharding.Layout,
        start: loop.Start,
        until: int | None = None,
    ) -> steps.TrainState:
        """Trains from a start, to the end or until an epoch, as `loop.fit` does.

        Raises:
          Interrupted: it was interrupted, and the state is saved.
          FloatingPointError: a loss is not finite; the log has the message.
          NotSaved: the checkpoint of the end could not be written.
        """
        began = time.monotonic()
        if until is not None:
            self._last = until
        lines = progress.EpochLines(self.run, self.tell)

        def write(**event: Any) -> None:
            self.recorder.write(**event)
            lines(event)

        def save(step: int, state: steps.TrainState, position: loop.Position) -> None:
            if self.losses_in is not None and position.batch == 0:
                logits = evaluation.outputs_of(
                    "logits", state, task.train, self.run, layout, self.session
                )
                self._keep_losses(position.epoch, logits, task.train.labels)
            self._save(step, state, position)

        callbacks = loop.Callbacks(write, self._stepped, self._due, save)
        try:
            state = loop.fit(
                self.run, task, layout, self.session, start, callbacks, until=until
            )
        except FloatingPointError as error:
            self.recorder.write(event="diverged", error=str(error))
            raise FloatingPointError(f"{error} {aggregate.remedy(self.run)}") from error
        finally:
            self.saver.wait()
            self._note_failures()
        step = self._last * loop.steps_per_epoch(self.run, task)
        seconds = time.monotonic() - began
        self.recorder.write(event="finished", step=step, seconds=seconds)
        if self._saves(self._last) and not self.saved:
            there = self.saver.steps()
            raise NotSaved(
                "The training came to its end, but its last checkpoint could not be "
                f"saved ({self.saver.failures[-1].reason}). Make room: the same "
                "command then "
                + (f"goes on from step {there[-1]}." if there else "starts over.")
            )
        return state

    @property
    def saved(self) -> bool:
        """Whether the last checkpoint that was asked for is on the disk."""
        self.saver.wait()
        return self.saver.newest_saved

    def _stepped(self, step: int, shown: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.set_postfix(progress.bar(self.run, shown), refresh=False)
            self.bar.update()

    def _due(self, step: int) -> bool:
        if jax.process_count() > 1:
            # Hosts save at the ends of epochs, which needs no agreement. Stopping
            # does: all stop at the same step, whichever host got the signal and when.
            # JAX takes the first step that it is asked about for 1.
            self.dispatches += 1
            reached = multihost_utils.reached_preemption_sync_point
            self._stops |= reached(self.dispatches)
            return self._stops
        return self.interrupted() or self._late()

    def _saves(self, epoch: int) -> bool:
        return self.save_at is None or epoch in self.save_at

    def _soon(self, epoch: int) -> bool:
        """Whether an epoch ends so soon after a checkpoint that it goes without.

        Not the last ones, of which as many are kept; nor with several hosts, which save
        at the same steps without asking each other.
        """
        if epoch > self._last - self.session.checkpoints or jax.process_count() > 1:
            return False
        return time.monotonic() - self._saved_at < SOON

    def _late(self) -> bool:
        return time.monotonic() - self._saved_at >= self.session.checkpoint_seconds

    def _save(
        self, step: int, state: steps.TrainState, position: loop.Position
    ) -> None:
        self._stops |= self.interrupted()
        due = self._saves(position.epoch) and not self._soon(position.epoch)
        if due or self._stops or self._late():
            metadata = {
                "position": position._asdict(),
                "run": run_log.to_jsonable(self.run),
            }
            self.saver.save(step, state, metadata)
            self._saved_at = time.monotonic()
            self._note_failures()
        if self._stops:
            raise Interrupted

    def _keep_losses(self, epoch: int, logits: np.ndarray, labels: np.ndarray) -> None:
        """Keeps the losses of the training examples, unless the disk refuses them."""
        if jax.process_index() != 0:
            return
        try:
            losses = example_losses.cross_entropy(logits, labels)
            example_losses.write(self.losses_in, epoch, losses)
        except OSError as error:
            say(f"The losses after epoch {epoch} could not be kept: {error}")

    def _note_failures(self) -> None:
        """Logs the checkpoints that could not be saved since the last call."""
        for step, reason in self.saver.failures[self._failures :]:
            self.recorder.write(event="save_failed", step=step, error=reason)
        self._failures = len(self.saver.failures)


def _default_out(preset: str, run: configs.Run) -> pathlib.Path:
    method = run.method
    lam = f"-{method.lam:g}" if "lam" in method.info.reads else ""
    rho = f"-rho{method.rho:g}" if method.attends and method.rho is not None else ""
    return pathlib.Path(f"runs/{preset}-{method.name}{lam}{rho}-seed{run.seed}")


def _start(
    run: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session,
    saver: checkpoint.Checkpoints,
    extended: Collection[int] = (),
) -> tuple[loop.Start, int]:
    """From the newest checkpoint, or from the first step."""
    drawn = loop.begin(run, task, layout)
    restored = evaluation.newest(saver, drawn.state, run, extended)
    if restored is None:  # else what it started from is needed no more
        network = _network(run, task, layout, session)
        return loop.begin(run, task, layout, network), 0
    step, state, kept = restored
    return loop.Start(state, loop.Position(**kept["position"])), step


def _network(
    run: configs.Run, task: Task, layout: sharding.Layout, session: Session
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
    _, state = evaluation.restore(run.start_from, first, layout)
    for part in (state.params, state.frozen, state.statistics):
        kept = [
            (path, value)
            for path, value in nnx.to_flat_state(part)
            if not (remembers and path[0] == "head")
        ]
        _require_same_shapes(network, kept, run.start_from)
        nnx.update(network, nnx.from_flat_state(kept))
    if run.new_head:
        # Not as stage one's first head was drawn, for which its body has been trained.
        seed = int(np.random.default_rng([run.seed, 1]).integers(2**31))
        nnx.update(network.head, nnx.state(steps.init_network(run, seed).head))
    elif remembers:
        # As in OLTR's code: centroids are the class means of stage one's features of
        # the training examples as they are, and its head, if linear, recalls them.
        features = evaluation.outputs_of(
            "features", state, task.train, first.run, layout, session
        )
        means = posthoc_classifiers.class_means(
            features, task.train.labels, run.data.classes
        )
        network.head.centroids[...] = jnp.asarray(means)
        if heads[0] == "linear":
            named = evaluation.weights(state)
            network.head.recalls.kernel[...] = jnp.asarray(named["head.kernel"])
            network.head.recalls.bias[...] = jnp.asarray(named["head.bias"])
    return network


def _require_same_shapes(
    network: Any, first: Sequence[tuple[Any, Any]], holder: pathlib.Path
) -> None:
    """Refuses variables of a first stage that the network has with another shape."""
    here = dict(nnx.to_flat_state(nnx.state(network)))
    differing = [
        f"{'.'.join(map(str, path))}: {list(value.shape)} there, "
        f"{list(here[path].shape)} here"
        for path, value in first
        if path in here and value.shape != here[path].shape
    ]
    if differing:
        raise configs.BadConfiguration(
            f"{holder} trained another network:\n  " + "\n  ".join(differing)
        )


def _shape(run: configs.Run) -> dict[str, Any]:
    """The fields of a network that a second stage must have alike."""
    model = run_log.to_jsonable(run.model)
    for name in ("statistics_momentum", "dropout", "dtype", "pretrained"):
        del model[name]
    return {"model": model, "classes": run.data.classes}


def write_config(
    out: pathlib.Path,
    preset: str,
    run: configs.Run,
    session: Session,
    task: Task,
    extended: Sequence[int] = (),
) -> None:
    """Writes the resolved configuration, devices and versions as config.json.

    `extended` are the epochs that the run was to have before, if it is trained for
    more. The directory is made if need be.
    """
    data_dir = session.data_dir and session.data_dir.resolve()
    resolved = {
        "preset": preset,
        "run": run,
        "data_dir": data_dir,
        "session": dataclasses.replace(session, data_dir=data_dir),
        "class_counts": task.class_counts,
        "class_names": run.data.class_names,
        "devices": [str(device) for device in jax.devices()],
        "versions": run_log.versions(),
    }
    if extended:
        resolved["extended"] = list(extended)
    # Whole or not at all: another host may be reading it.
    run_log.save(out / run_dir.CONFIG, resolved)


def _recorder(
    out: pathlib.Path, step: int, session: Session
) -> contextlib.AbstractContextManager[run_log.Recorder]:
    """The log of a run, continued at the checkpoint; only the first host writes."""
    return run_log.Recorder(
        out / run_dir.RECORDS if jax.process_index() == 0 else None,
        resume_at=step,
        tensorboard=out / run_dir.TENSORBOARD if session.tensorboard else None,
        log=say,
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Lets the loop finish its step on a signal; a second signal stops it at once.

    Of several hosts all stop when one is interrupted: by SIGTERM, which JAX waits for
    and passes on. SIGHUP, of a terminal that was closed, is ignored under `nohup`.
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

    numbers = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    if (hangup := getattr(signal, "SIGHUP", None)) is not None:  # not on Windows
        numbers += [hangup] * (signal.getsignal(hangup) is not signal.SIG_IGN)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
