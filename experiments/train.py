"""The loop over the epochs of one run."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import configs, metrics, pipeline, steps
from experiments.sources import Examples

EVAL_BATCH = 256  # examples; a set smaller than that is padded to it


def run(config: configs.Run, study: str, write: Callable[..., None]) -> None:
    """Trains once, and writes one event per epoch.

    Steps are dispatched from Python: inside `lax.scan` XLA's convolutions are tens of
    times slower on a CPU. What they saw is read once an epoch, so they do not wait.

    Args:
      config: what to run.
      study: name under which the events are kept.
      write: takes an event as keywords. The last one of a run has the key `test`.

    Raises:
      FloatingPointError: a loss is not finite; names the step.
    """
    task = pipeline.task(config.data, config.model.classes, config.seed)
    order_rng = np.random.default_rng([config.seed, 1])
    examples = len(task.train.labels)
    steps_per_epoch = -(-examples // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    program = steps.program(
        config.model, config.optimizer, config.attention, total_steps
    )
    state = program.init(config.seed, config.lam)

    for epoch in range(config.epochs):
        order = order_rng.permutation(examples)
        shuffled = task.train.take(order)
        shuffled = shuffled._replace(
            images=pipeline.shift(shuffled.images, config.data.max_shift, order_rng)
        )
        epoch_seen = []
        for batch in pipeline.batches(shuffled, config.batch_size):
            state, seen = program.train(state, batch, config.lam)
            epoch_seen.append(seen)
        losses, weights, tilted_losses = (
            np.stack(column) for column in zip(*jax.device_get(epoch_seen), strict=True)
        )
        _require_finite(losses, config, first_step=epoch * steps_per_epoch + 1)
        # Padding is at the end of the epoch, and nowhere else.
        losses, weights = losses.ravel()[:examples], weights.ravel()[:examples]
        wrong = task.mislabelled[order]
        event = {
            "study": study,
            "method": config.method,
            "lam": config.lam,
            "seed": config.seed,
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_per_epoch,
            "loss": np.mean(losses),
            "tilted_loss": tilted_losses[-1],
            "weight_by_class": [
                np.mean(weights[shuffled.labels == label])
                for label in range(config.model.classes)
            ],
            "weight_clean": np.mean(weights[~wrong]),
            "weight_mislabelled": np.mean(weights[wrong]) if wrong.any() else None,
            "validation": evaluate(program, state, task.validation, config),
        }
        if epoch + 1 == config.epochs:
            event["class_counts"] = np.bincount(task.train.labels)
            event["test"] = evaluate(program, state, task.test, config)
        write(**event)


def evaluate(
    program: steps.Program,
    state: steps.TrainState,
    examples: Examples,
    config: configs.Run,
) -> dict[str, Any]:
    """Accuracy, recall of each class and of the tail, in [0, 1]."""
    counts = sum(
        np.asarray(program.evaluate(state, batch))
        for batch in pipeline.batches(examples, EVAL_BATCH)
    )
    tail_classes = config.data.tail_classes
    return {
        "accuracy": metrics.accuracy(counts),
        "recall": metrics.per_class_recall(counts),
        "tail_recall": metrics.tail_recall(counts, tail_classes)
        if tail_classes
        else None,
    }


def _require_finite(losses: np.ndarray, config: configs.Run, first_step: int) -> None:
    """Refuses losses `[steps, batch]` that are not finite."""
    bad_steps = np.flatnonzero(~np.isfinite(losses).all(axis=1))
    if bad_steps.size:
        raise FloatingPointError(
            f"A loss is not finite at step {first_step + bad_steps[0]} "
            f"({config.method}, λ = {config.lam}, seed {config.seed})."
        )
