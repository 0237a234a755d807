"""The command `suspects`: training examples whose labels are most likely wrong."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from experiments import commands, configs
from experiments.data.types import Examples, Files
from experiments.report import formatting
from experiments.results import aggregate, example_losses, run_dir, run_log
from experiments.train import evaluation, steps

LIST, ARRAYS = run_dir.SUSPECTS, run_dir.SUSPECTS_ARRAYS
EPOCHS = "suspects_epochs.csv"
_SHOWN = 6  # epochs that are printed


class Suspicion(NamedTuple):
    """How well each training example fits its label, by the trained network."""

    given: np.ndarray  # int [n], labels as the training has them
    probabilities: np.ndarray  # float32 [n, classes]
    losses: np.ndarray  # float64 [n], cross-entropy with the given label
    weights: np.ndarray  # float32 [n], by attention, of mean 1
    order: np.ndarray  # int [n], the most suspect first

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int `[n]`."""
        return self.probabilities.argmax(axis=1)


def main(config: commands.Suspects) -> int:
    """Classifies the training set, writes the two files and prints the first rows.

    Returns 0, also if the list could not be saved in the run directory. Raises OSError
    where `out` is given and cannot be written to, and BadConfiguration where the data
    are there under the name of one of the files.
    """
    kept, task, layout, step, state = evaluation.reopen(
        config.dir, config.data_dir, config.devices
    )
    out = config.out or config.dir
    outputs = (out / name for name in (LIST, EPOCHS, ARRAYS))
    evaluation.refuse_overwriting(kept.run, *outputs)
    logits = evaluation.outputs_of("logits", state, task.train, kept.run, layout)
    lam, most = lam_of(kept.run, state), kept.run.method.bound
    suspects = suspicion(logits, task.train.labels, lam, most)
    index = np.arange(len(suspects.given)) if task.rows is None else task.rows
    rows = _rows(suspects, task.train, index)
    print("\n".join(formatting.markdown(_named(rows, kept.run, config.show))))
    differing = int((suspects.predicted != suspects.given).sum())
    print(
        f"\nStep {step}: {differing:,} of {len(suspects.given):,} training examples "
        "are predicted to be of another class than their label says."
    )
    arrays = {
        "index": index,  # of each example in the data set's training split
        "labels": suspects.given,
        "pred_probs": suspects.probabilities,
        "step": step,
    }
    tables = {LIST: rows}
    if course := course_of(config.dir, kept.run, len(suspects.given)):
        first = suspects.order[: config.show]
        names = [row[0] for row in rows[1 : 1 + config.show]]
        print("\n".join(["", *_printed(course, first, names)]))
        tables[EPOCHS] = _long(course, first, names)
        arrays["epochs"] = np.array([*course])
        arrays["losses"], arrays["weights"] = (
            np.stack(each) for each in zip(*course.values(), strict=True)
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            run_log.save_csv(out / name, table)
        np.savez_compressed(out / ARRAYS, **arrays)
    except OSError as error:
        if config.out is not None:
            raise
        print(
            f"The list could not be saved ({error}). Give --out another directory.",
            file=sys.stderr,
        )
        return 0
    print(f"\nAll of them: {out / LIST}. For cleanlab: {out / ARRAYS}")
    if course:
        print(f"Those above over all epochs: {out / EPOCHS}")
    return 0


def suspicion(
    logits: np.ndarray, labels: np.ndarray, lam: float, max_weight: float | None = None
) -> Suspicion:
    """Ranks examples by the probability of their label, the lowest first.

    Logits are `[n, classes]`, λ and the bound on each weight as in
    `example_losses.attention`.
    """
    losses = example_losses.cross_entropy(logits, labels)
    return Suspicion(
        labels,
        scipy.special.softmax(logits.astype(np.float64), axis=1).astype(np.float32),
        losses,
        example_losses.attention(losses, lam, max_weight),
        np.argsort(-losses, kind="stable"),
    )


def lam_of(run: configs.Run, state: steps.TrainState) -> float:
    """λ at the end of a training; inf where the method does not weight by attention."""
    if not run.method.attends:
        return np.inf
    if run.method.rho is not None:
        return float(state.optimizer.rule.lam)
    return run.method.lam


_Course = Mapping[int, tuple[np.ndarray, np.ndarray]]


def course_of(directory: pathlib.Path, run: configs.Run, examples: int) -> _Course:
    """Losses and weights of the training examples by epoch, in order.

    Of a run that was trained with `record_losses`: the losses, float16 `[examples]`,
    and the weights exp(L/λ) over their mean, with the λ of that epoch, float32
    `[examples]`. {} without any.
    """
    kept = example_losses.read(directory, examples)
    lams = {
        event["epoch"]: float(event["lam"]) if run.method.attends else np.inf
        for event in aggregate.read(directory).epochs
    }
    weights_of = lambda losses, epoch: example_losses.attention(
        losses, lams[epoch], run.method.bound
    )
    return {
        epoch: (losses, weights_of(losses, epoch))
        for epoch, losses in kept.items()
        if epoch in lams  # not what an interrupted training has left
    }


def _printed(course: _Course, first: np.ndarray, names: list[str]) -> list[str]:
    """Loss and weight of some examples at a few epochs, as a table of Markdown."""
    at = np.linspace(0, len(course) - 1, min(_SHOWN, len(course))).round().astype(int)
    epochs = np.array([*course])[at].tolist()
    rows = [["index", *(f"epoch {epoch}" for epoch in epochs)]]
    for name, example in zip(names, first, strict=True):
        pairs = ((part[example] for part in course[epoch]) for epoch in epochs)
        rows.append([name, *(f"{loss:.3g} ({weight:.2g})" for loss, weight in pairs)])
    return [*formatting.markdown(rows), "", "Loss (weight) after these epochs."]


def _long(course: _Course, first: np.ndarray, names: list[str]) -> list[list[str]]:
    """Loss and weight of some examples after every epoch, a row for each."""
    rows = [["index", "epoch", "loss", "weight"]]
    for name, example in zip(names, first, strict=True):
        for epoch, parts in course.items():
            values = (_shown(float(part[example])) for part in parts)
            rows.append([name, str(epoch), *values])
    return rows


def _rows(
    suspects: Suspicion, examples: Examples, index: np.ndarray
) -> list[list[str]]:
    """The list, its head first; image files also have their paths."""
    columns: dict[str, np.ndarray] = {
        "index": index,
        "is_label_issue": suspects.predicted != suspects.given,
        "label_quality": np.exp(-suspects.losses),
        "given_label": suspects.given,
        "predicted_label": suspects.predicted,
        "loss": suspects.losses,
        "weight": suspects.weights,
    }
    if isinstance(examples.inputs, Files):
        columns["file"] = examples.inputs.paths
    values = [column[suspects.order].tolist() for column in columns.values()]
    return [[*columns], *([*map(_shown, row)] for row in zip(*values, strict=True))]


def _named(rows: list[list[str]], run: configs.Run, show: int) -> list[list[str]]:
    """The first rows of the list, with names in the place of numbers of classes."""
    head, names = rows[0], run.data.class_names
    labels = head.index("given_label"), head.index("predicted_label")
    return [head] + [
        [names[int(c)] if i in labels else c for i, c in enumerate(row)]
        for row in rows[1 : 1 + show]
    ]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
