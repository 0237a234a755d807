"""What enters the last layer of `reproduce`'s networks after plain training.

Training only the last layer on these features takes seconds, so that a grid of methods
can be compared on real images: `untuned --data cifar10-lt100-head`.
"""

import dataclasses
from typing import Any

import numpy as np

from experiments import commands, configs
from experiments.data import loader
from experiments.data.task import Task
from experiments.studies import reproduce
from experiments.studies.equal_grids_report import PASSES
from experiments.studies.reproduce import ROWS, Cell, Worker
from experiments.train import evaluation, steps


def write(config: commands.Reproduce, setting: str) -> None:
    """Writes the features of a setting's networks, one a seed, to `config.features`.

    The file has, with S seeds: `train` [S, n, features] and `train_labels` [S, n], of
    `PASSES` passes, each augmented differently; `test` and `test_labels`, of the same
    form, are of the images without augmentation; and the last layer's `kernel` [S,
    features, classes] and `bias` [S, classes]. Networks that are not trained yet are
    trained first.
    """
    found: list[dict[str, np.ndarray]] = []
    own = reproduce.worker(config)
    for seed in range(config.seeds):
        cell = Cell(setting, ROWS[0].name, float("inf"), seed, "test")
        run = reproduce.run_of(cell, config.smoke)
        task = own.task(run)
        state = reproduce.plainly_trained(run, task, own)
        if state is None:
            raise configs.BadConfiguration(
                f"Another process is training in {config.out}."
            )
        found.append(_of_network(reproduce.first_stage(run), task, state, own))
    assert config.features is not None
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    config.features.parent.mkdir(parents=True, exist_ok=True)
    np.savez(config.features, **stacked)


def _of_network(
    run: configs.Run, task: Task, state: steps.TrainState, own: Worker
) -> dict[str, np.ndarray]:
    layout, session = own.layout, own.session
    features = steps.program(run, layout).features
    on_host = dataclasses.replace(run.data, augment_on="host")
    passes = range(run.epochs, run.epochs + PASSES)  # none that it was trained on
    batches = loader.training(
        task.train, on_host, run.batch_size, seed=run.seed, epochs=passes
    )
    parts: list[Any] = []
    for batch in batches:
        kept = np.asarray(features(state, layout.shard(batch)))[batch.present]
        parts.append((kept, batch.labels[batch.present]))
    train, train_labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    head = evaluation.head(state)
    return {
        "train": train,
        "train_labels": train_labels,
        "test": evaluation.outputs_of(
            "features", state, task.test, run, layout, session
        ),
        "test_labels": task.test.labels,
        "kernel": head[("kernel",)],
        "bias": head[("bias",)],
    }
