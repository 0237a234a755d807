"""Formats numbers and tables, in all reports."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments import configs


def number(value: float) -> str:
    """A number with typographic minus and infinity signs."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:g}".replace("-", "−")


def method(method: configs.Method) -> str:
    """The title of a method, with λ or ρ if it has one."""
    if method.attends and method.rho is not None:
        sign = "λ < 0, " if method.lam < 0 else ""
        return f"{method.title}, {sign}ρ = {number(method.rho)}"
    if math.isinf(method.lam) or "lam" not in method.info.reads:
        return method.title
    return f"{method.title}, λ = {number(method.lam)}"


def percent(value: float) -> str:
    """A share in percent; a dash where it is not known."""
    return "–" if math.isnan(value) else f"{100.0 * value:.1f}"


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation of shares `[seeds]`, in percent."""
    mean = percent(values.mean())
    if len(values) < 2 or np.isnan(values).any():
        return mean
    return f"{mean} ± {percent(values.std(ddof=1))}"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100.0 * value:+.1f}".replace("-", "−")


def difference(values: np.ndarray) -> str:
    """Mean ± standard error of differences of shares `[seeds]`, in points."""
    mean = points(values.mean())
    if len(values) < 2:
        return mean
    return f"{mean} ± {percent(standard_error(values))}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """`difference` by seed, over the seeds that both have; a dash for none."""
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return "–"
    return difference(np.array([ours[seed] - theirs[seed] for seed in both]))


def count(number: int, noun: str) -> str:
    """A number and its noun, such as `1 seed` or `3 seeds`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over seeds, the first axis; 0 for a single seed."""
    seeds = len(values)
    if seeds < 2:
        return np.zeros(values.shape[1:])
    return values.std(axis=0, ddof=1) / math.sqrt(seeds)


def blocks(*parts: str | Sequence[str]) -> str:
    """Headings, paragraphs and tables with an empty line between each.

    Each is text or lines; empty ones are left out.
    """
    texts = (part if isinstance(part, str) else "\n".join(part) for part in parts)
    return "\n\n".join(text.strip("\n") for text in texts if text)


def notes(texts: Iterable[str]) -> list[str]:
    """A list with a bullet for each text."""
    return [f"* {text}" for text in texts]


def markdown(rows: list[list[str]]) -> list[str]:
    """A table with its columns aligned; the first row is its head."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
