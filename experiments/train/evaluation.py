"""A trained network, restored from its run directory, and what it predicts."""

import csv
import dataclasses
import io
import os
import pathlib
import sys
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments import commands, configs
from experiments.data import imdb, inputs, own
from experiments.data.task import Task, load_task
from experiments.data.types import Examples, Files
from experiments.results import run_dir, run_log
from experiments.train import checkpoint, loop, sharding, steps
from experiments.train.progress import say
from experiments.train.session import Session

_LISTED = 20  # classes; of more, recall is not printed class by class


def task_of(run: configs.Run, session: Session) -> Task:
    """The examples of a run; more than there are is a BadConfiguration."""
    try:
        return load_task(
            run.data, run.seed, session.data_dir, download=session.download
        )
    except ValueError as error:
        raise configs.BadConfiguration(str(error)) from error


def require_same(
    holder: str, there: Any, here: Any, otherwise: str = "Give another --out"
) -> None:
    """Refuses to go on with another configuration than the one that is there.

    Both are configurations, or their JSON. The message of the BadConfiguration names
    the fields that differ and what holds them, such as `runs/a holds a run`. The same
    data at another path do not differ.
    """
    differing = checkpoint.differences(_without_path(there), _without_path(here))
    if differing:
        raise configs.BadConfiguration(
            f"{holder} of another configuration:\n  "
            + "\n  ".join(differing)
            + f"\n{otherwise}, or give the same configuration."
        )


def _without_path(configuration: Any) -> Any:
    """The JSON of a configuration, without the path of data whose digest is known."""
    jsonable = run_log.to_jsonable(configuration)
    data = jsonable.get("run", jsonable).get("data")
    if data is not None and (data.get("contents") or {}).get("digest"):
        data["path"] = None
    return jsonable


def newest(
    saver: checkpoint.Checkpoints,
    like: steps.TrainState,
    run: configs.Run,
    extended: Collection[int] = (),
) -> tuple[int, steps.TrainState, dict[str, Any]] | None:
    """The newest intact checkpoint; one of another run is a BadConfiguration.

    `extended` has the other numbers of epochs that it may have been of.
    """
    restored = saver.restore(like)
    if restored is not None:
        there = run_dir.parse(restored[2]["run"])
        if there.epochs in extended:
            there = dataclasses.replace(there, epochs=run.epochs)
        require_same(f"Checkpoint {restored[0]} holds a run", there, run)
    return restored


def restore(
    out: pathlib.Path, kept: run_dir.SavedRun, layout: sharding.Layout
) -> tuple[int, steps.TrainState]:
    """Step and state of the newest good checkpoint; a BadConfiguration without one."""
    run = kept.run
    like = steps.program(run, layout).init(
        steps.init_network(run, run.seed), run.seed, sum(kept.class_counts)
    )
    with checkpoint.Checkpoints(out / run_dir.CHECKPOINTS, keep=2, log=say) as saver:
        restored = newest(saver, like, run, kept.extended)
    if restored is None:
        raise configs.BadConfiguration(f"{out} has no checkpoint yet.")
    return restored[0], restored[1]


def reopen(
    out: pathlib.Path, data_dir: pathlib.Path | None, devices: int | None
) -> tuple[run_dir.SavedRun, Task, sharding.Layout, int, steps.TrainState]:
    """Restores a trained network with its data set, for evaluation.

    None is the directory of the data sets in training, and all devices that there are.
    Returns configuration, task, devices, step and state of the newest checkpoint; a
    directory that is none of a run, or has no checkpoint, is a BadConfiguration, as are
    data with fewer examples than the run asks for.
    """
    kept = run_dir.load(out)
    task = task_of(kept.run, Session(data_dir=data_dir or kept.data_dir))
    layout = sharding.layout(devices)
    step, state = restore(out, kept, layout)
    return kept, task, layout, step, state


def evaluate(config: commands.Evaluate) -> int:
    """Evaluates the newest checkpoint of a run.

    The exit status is 0 also if the numbers, which are printed, cannot be saved.
    """
    kept, task, layout, step, state = reopen(
        config.dir, config.data_dir, config.devices
    )
    names = kept.run.data.class_names
    evaluated = loop.evaluate(state, kept.run, task, layout, Session())
    summaries = {name: summary for name, summary in evaluated.items() if summary}
    for name, of_split in summaries.items():
        shown = (f"{k} {v:.4f}" for k, v in of_split.items() if type(v) is float)
        print(f"{name}: {', '.join(shown)}")
        if len(names) <= _LISTED:
            recall = zip(names, of_split["recall"], strict=True)
            shown = (f"{own.in_list(label)} {value:.4f}" for label, value in recall)
            print(f"  recall of each class: {', '.join(shown)}")
    if len(names) == 2:
        print(
            f"The positive class of AUROC, average precision and F1 is {names[1]!r}; "
            "with --data.positive a training of your own data has the other. The "
            "threshold on its probability is that of the highest F1 on validation "
            "examples, or 0.5 without any of either class."
        )
    path = config.dir / run_dir.EVALUATION
    try:
        run_log.save(path, {"step": step, "class_names": names, **summaries})
    except OSError as error:
        print(f"Step {step}.")
        print(f"{path} could not be saved ({error}).", file=sys.stderr)
    else:
        print(f"Step {step}. All of it: {path}")
    return 0


class HeadInputs(NamedTuple):
    """Penultimate features by split, and the head that classifies them."""

    splits: dict[str, tuple[np.ndarray, np.ndarray]]  # features [n, features], labels
    kernel: np.ndarray  # float32 [features, classes]
    bias: np.ndarray | None  # float32 [classes]; None for a head without


def features(
    out: pathlib.Path,
    data_dir: pathlib.Path | None = None,
    *,
    splits: Sequence[str] = ("train", "validation", "test"),
    examples: int | None = None,
) -> HeadInputs:
    """Penultimate features of a trained network, of examples that are not augmented.

    A split that the task does not have is left out. Of each there are at most so many
    examples, a subsample with a fixed seed; None for all, in order. Labels are as the
    training has them. See `reopen`.
    """
    kept, task, layout, _, state = reopen(out, data_dir, devices=1)
    if kept.run.model.custom is not None:
        raise configs.BadConfiguration(
            f"The features of {kept.run.model.custom}, before its last layer, are not "
            "known: only networks of this package have them."
        )
    found = {}
    for name in splits:
        part = getattr(task, name)
        if part is None:
            continue
        if examples is not None:
            count = len(part.labels)
            rng = np.random.default_rng(0)
            part = part.take(rng.choice(count, min(examples, count), replace=False))
        outputs = outputs_of("features", state, part, kept.run, layout)
        found[name] = outputs, part.labels
    named = weights(state)
    return HeadInputs(found, named["head.kernel"], named.get("head.bias"))


def outputs_of(
    what: Literal["features", "logits"],
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    layout: sharding.Layout,
    session: Session | None = None,
) -> np.ndarray:
    """What enters the head, or the logits, of examples in order and not augmented.

    float32 `[n, features]`, or `[n, classes]`.
    """
    step = getattr(steps.program(run, layout), what)
    batches = loop.in_order(examples, run, layout, session or Session())
    # Padding is only at the end. Every host has all outputs, though not all examples.
    parts = [np.asarray(step(state, batch)) for batch in batches]
    return np.concatenate(parts)[: len(examples.labels)]


def weights(state: steps.TrainState) -> dict[str, np.ndarray]:
    """Parameters and statistics by name, such as `blocks.0.norm.mean`."""
    return {
        ".".join(map(str, path)): np.asarray(value[...])
        for part in (state.params, state.frozen, state.statistics)
        for path, value in nnx.to_flat_state(part)
        if not isinstance(value, nnx.RngState)
    }


def refuse_overwriting(
    run: configs.Run, *outputs: pathlib.Path, source: pathlib.Path | None = None
) -> None:
    """Refuses outputs that are there, and are what a run or a command reads."""
    paths = (source, run.data.path, run.model.pretrained)
    read = [path for path in paths if path is not None and os.path.exists(path)]
    for out in outputs:
        # A folder may be read that has a file for each split.
        named = (out, out.parent) if out.stem.lower() in own.SPLIT_NAMES else (out,)
        if out.exists() and any(path.samefile(r) for path in named for r in read):
            raise configs.BadConfiguration(
                f"{out} would be overwritten, and it is what is read: give another "
                "--out."
            )


def predict(config: commands.Predict) -> int:
    """Writes the probabilities of examples as CSV; returns the exit status 0.

    A BadConfiguration where there is no such run, or the output cannot be written or is
    what is read; MissingData without such examples; DamagedData where they are not of
    the kind that the network was trained on.
    """
    kept = run_dir.load(config.dir)
    of_run = config.input is None or str(config.input) == "-"
    data, data_dir = kept.run.data, config.data_dir or kept.data_dir
    task = prepare = paths = rows = None
    if config.out is not None:
        refuse_overwriting(kept.run, config.out, source=config.input)
    if not of_run:
        inputs.require(config.input)
    if of_run or (data.info.own and not data.info.files):  # those are prepared by it
        task = task_of(kept.run, Session(data_dir=data_dir))
        prepare = task.prepare
    elif inputs.of_texts(config.input, data):
        prepare = imdb.tokenizer(data, data_dir)
    if of_run:
        examples, rows = task.test, task.test_rows
        if isinstance(examples.inputs, Files):
            paths = [str(examples.inputs.path(i)) for i in range(len(examples.labels))]
    else:
        examples, paths = inputs.load(config.input, data, prepare)
    if rows is None:
        rows = np.arange(len(examples.labels))
    layout = sharding.layout(config.devices)
    step, state = restore(config.dir, kept, layout)
    logits_of = steps.program(kept.run, layout).logits
    batches = loop.in_order(examples, kept.run, layout, Session())
    parts = [jax.nn.softmax(logits_of(state, batch)) for batch in batches]
    probabilities = np.concatenate(jax.device_get(parts))[: len(examples.labels)]

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = data.class_names
    first = ["index" if paths is None else "path", *(["label"] if of_run else [])]
    first.append("predicted")
    shown = (f"probability of {name}" if name in first else name for name in names)
    writer.writerow([*first, *shown])
    for index, row in enumerate(probabilities):
        cells = [rows[index] if paths is None else paths[index]]
        cells += [names[examples.labels[index]]] if of_run else []
        cells += [names[row.argmax()], *(f"{p:.6g}" for p in row)]
        writer.writerow(cells)
    if config.out is None:
        print(table.getvalue(), end="")
    else:
        try:
            run_log.save_text(config.out, table.getvalue())
        except OSError as error:
            raise configs.BadConfiguration(
                f"{config.out} cannot be written: {error.strerror}."
            ) from error
    of = f"Step {step} of {config.dir}: {len(probabilities)} examples"
    print(of + (f" in {config.out}." if config.out else "."), file=sys.stderr)
    return 0
