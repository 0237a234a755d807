"""Classifies examples with a trained network; `python -m experiments predict`."""

import csv
import io
import pathlib
import sys

import jax
import numpy as np

from experiments import commands, configs
from experiments.data import imdb, inputs
from experiments.data.types import Examples, Files
from experiments.results import run_dir
from experiments.train import loop, runs, sharding, steps
from experiments.train.session import Session


def main(config: commands.Predict) -> int:
    """Writes the probabilities of examples as CSV.

    Args:
      config: run directory, examples and output.

    Returns:
      Exit status 0.

    Raises:
      BadConfiguration: there is no such run, or the output cannot be written.
      MissingData: there are no such examples.
      DamagedData: they are not of the kind that the network was trained on.
    """
    kept = run_dir.load(config.dir)
    own = config.input is None or str(config.input) == "-"
    data, data_dir = kept.run.data, config.data_dir or kept.data_dir
    task = prepare = None
    if not own:
        inputs.require(config.input)
    if own or (data.info.own and not data.info.files):  # those are prepared by it
        task = runs.task_of(kept.run, Session(data_dir=data_dir))
        prepare = task.prepare
    elif inputs.of_texts(config.input, data):
        prepare = imdb.tokenizer(data, data_dir)
    if own:
        examples, paths = task.test, _paths(task.test)
    else:
        examples, paths = inputs.load(config.input, data, prepare)
    layout = runs.layout_of(config.devices)
    step, state = runs.restore(config.dir, kept, layout)
    found = probabilities(state, examples, kept.run, layout)

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = data.class_names
    first = ["index" if paths is None else "path", *(["label"] if own else [])]
    writer.writerow([*first, "predicted", *names])
    for index, row in enumerate(found):
        cells = [index if paths is None else paths[index]]
        cells += [names[examples.labels[index]]] if own else []
        cells += [names[row.argmax()], *(f"{p:.6g}" for p in row)]
        writer.writerow(cells)
    _write(config.out, table.getvalue())
    of = f"Step {step} of {config.dir}: {len(found)} examples"
    print(of + (f" in {config.out}." if config.out else "."), file=sys.stderr)
    return 0


def probabilities(
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    layout: sharding.Layout,
) -> np.ndarray:
    """Probabilities of examples, in order, float32 `[n, classes]`."""
    program = steps.program(run, layout)
    batches = loop.in_order(examples, run, layout, Session())
    parts = [jax.nn.softmax(program.logits(state, batch)) for batch in batches]
    return np.concatenate(jax.device_get(parts))[: len(examples.labels)]


def _paths(examples: Examples) -> list[str] | None:
    """The paths of image files; None for examples in memory."""
    if not isinstance(examples.inputs, Files):
        return None
    return [str(examples.inputs.path(i)) for i in range(len(examples.labels))]


def _write(out: pathlib.Path | None, text: str) -> None:
    """Writes a file, or to standard output."""
    if out is None:
        print(text, end="")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise configs.BadConfiguration(
            f"{out} cannot be written: {error.strerror}."
        ) from error
