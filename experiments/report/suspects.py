"""The command `suspects`: training examples whose labels are most likely wrong."""

import csv
import sys
from typing import Any, NamedTuple

import numpy as np

from experiments import commands, configs
from experiments.data.types import Examples, Files
from experiments.report import formatting
from experiments.train import runs, steps

LIST, ARRAYS = "suspects.csv", "suspects.npz"


class Suspicion(NamedTuple):
    """How well each training example fits its label, by the trained network."""

    given: np.ndarray  # int [n], labels as the training has them
    probabilities: np.ndarray  # float32 [n, classes]
    losses: np.ndarray  # float64 [n], cross-entropy with the given label
    weights: np.ndarray  # float64 [n], by attention, of mean 1
    order: np.ndarray  # int [n], the most suspect first

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int `[n]`."""
        return self.probabilities.argmax(axis=1)


def main(config: commands.Suspects) -> int:
    """Classifies the training set, writes the two files and prints the first rows.

    Args:
      config: run directory, and where to write.

    Returns:
      Exit status 0, also if the list could not be saved in the run directory.

    Raises:
      OSError: `out` is given and cannot be written to.
    """
    kept, task, layout, step, state = runs.reopen(
        config.dir, config.data_dir, config.devices
    )
    logits = runs.outputs_of("logits", state, task.train, kept.run, layout)
    found = suspicion(logits, task.train.labels, lam_of(kept.run, state))
    rows = _rows(found, task.train, task.rows)
    print("\n".join(formatting.markdown(rows[: 1 + config.show])))
    differing = int((found.predicted != found.given).sum())
    print(
        f"\nStep {step}: {differing:,} of {len(found.given):,} training examples are "
        "predicted to be of another class than their label says."
    )
    out = config.out or config.dir
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / LIST).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        np.savez_compressed(
            out / ARRAYS, labels=found.given, pred_probs=found.probabilities
        )
    except OSError as error:
        if config.out is not None:
            raise
        print(
            f"The list could not be saved ({error}). Give --out another directory.",
            file=sys.stderr,
        )
        return 0
    print(f"All of them: {out / LIST}. For cleanlab: {out / ARRAYS}")
    return 0


def suspicion(logits: np.ndarray, labels: np.ndarray, lam: float) -> Suspicion:
    """Ranks examples by the probability of their label, the lowest first.

    Args:
      logits: float `[n, classes]`.
      labels: int `[n]`, as given.
      lam: λ, in units of loss; ±inf for equal weights.

    Returns:
      Probabilities, losses, weights exp(L/λ) over their mean, and the ranking.
    """
    logs = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    losses = -logs[np.arange(len(labels)), labels]
    tilted = losses / lam
    weights = np.exp(tilted - tilted.max())
    return Suspicion(
        labels,
        np.exp(logs).astype(np.float32),
        losses,
        weights / weights.mean(),
        np.argsort(-losses, kind="stable"),
    )


def lam_of(run: configs.Run, state: steps.TrainState) -> float:
    """λ at the end of a training; inf where the method does not weight by attention."""
    if not run.method.attends:
        return np.inf
    if run.method.rho is not None:
        return float(state.optimizer.rule.lam)
    return run.method.lam


def _rows(
    found: Suspicion, examples: Examples, rows: np.ndarray | None
) -> list[list[str]]:
    """The list, its head first; image files also have their paths."""
    index = np.arange(len(found.given)) if rows is None else rows
    columns: dict[str, np.ndarray] = {
        "index": index,
        "is_label_issue": found.predicted != found.given,
        "label_quality": np.exp(-found.losses),
        "given_label": found.given,
        "predicted_label": found.predicted,
        "loss": found.losses,
        "weight": found.weights,
    }
    if isinstance(examples.inputs, Files):
        columns["file"] = examples.inputs.paths
    values = [column[found.order].tolist() for column in columns.values()]
    return [[*columns], *([*map(_shown, row)] for row in zip(*values, strict=True))]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
