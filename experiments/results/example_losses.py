"""The loss of every training example after each epoch, in `DIR/losses/<epoch>.npy`."""

import contextlib
import pathlib

import numpy as np

import absgd_jax

FOLDER = "losses"


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each example, float64 `[n]`, of logits `[n, classes]`."""
    logs = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logs).sum(axis=1)) - logs[np.arange(len(labels)), labels]


def attention(
    losses: np.ndarray, lam: float, max_weight: float | None = None
) -> np.ndarray:
    """Weights of examples as one batch, exp(L/λ) over their mean, float32 `[n]`.

    λ is in units of loss, ±inf for equal weights; `max_weight` bounds each weight, as
    in the training.
    """
    rule = absgd_jax.attention(lam, gamma=1.0, max_weight=max_weight)
    weights, _ = rule.weigh(losses.astype(np.float32), rule.init())
    return np.asarray(weights)


def write(out: pathlib.Path, epoch: int, losses: np.ndarray) -> None:
    """Writes the losses `[n]` after an epoch, from 1, as float16, by one rename.

    They are in the order of the training set, and replace what there is of the epoch.
    """
    path = out / FOLDER / f"{epoch:05}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, np.minimum(losses, np.finfo(np.float16).max).astype(np.float16))
    temporary.replace(path)


def read(out: pathlib.Path, examples: int) -> dict[int, np.ndarray]:
    """The losses of a run by epoch, in order, float16 `[examples]`; {} without any.

    A file that is damaged, or of another number of examples, is passed over.
    """
    found = {}
    for path in sorted((out / FOLDER).glob("[0-9]*.npy")):
        with contextlib.suppress(OSError, ValueError, EOFError):
            losses = np.load(path, allow_pickle=False)
            if losses.shape == (examples,):
                found[int(path.stem)] = losses
    return found
