"""Refusals of labels that a data set does not have, and of too few examples."""

from experiments.data.types import DamagedData

PARTIAL = "With data.partial a part of a data set is accepted."


def label(where: str, found: int, classes: int, got: object = None) -> None:
    """Refuses a label that is not in 0 ... classes - 1; quotes it, or `got`."""
    if not 0 <= found < classes:
        raise DamagedData(
            f"{where}: the label must be in 0 ... {classes - 1}, got "
            f"{found if got is None else got}."
        )


def enough(label: int, examples: int, count: int) -> None:
    """Refuses to take more examples of a class than it has."""
    if examples < count:
        raise ValueError(f"Class {label} has {examples} examples, fewer than {count}.")
