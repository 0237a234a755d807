"""Outcomes of grids, as run directories would give them."""

import pathlib

import numpy as np

from experiments import configs
from experiments.results.aggregate import Result
from experiments.studies.grid import Outcome

COUNTS = np.arange(100.0, 0.0, -10.0)  # training examples of each class


def cells(line):
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def outcome(epochs, diverged=()):
    """Of finished runs, given the events of their epochs by seed."""
    results = {
        seed: Result(
            pathlib.Path(f"seed{seed}"),
            None,
            configs.Run(seed=seed),
            COUNTS,
            events,
            finished=True,
        )
        for seed, events in epochs.items()
    }
    return Outcome(results, set(diverged))


def scored(validation, test, diverged=()):
    """Of runs with these accuracies, by seed."""
    events = [
        [
            {
                "validation": {"accuracy": v},
                "test": t if isinstance(t, dict) else {"accuracy": t},
            }
        ]
        for v, t in zip(validation, test, strict=True)
    ]
    return outcome(dict(enumerate(events)), diverged)
