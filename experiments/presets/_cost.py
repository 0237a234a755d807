"""The cost of a run: steps from the known counts, time where it was measured."""

import math

from experiments import configs

# Seconds of a training step on two idle CPU cores: of an example, and of the step as
# such, which is most of it where the network is small.
_SECONDS = {"resnet32": (0.9 / 128, 0.0), "convnet": (0.0, 0.01)}
# Where no step was measured: 10^9 operations of a forward pass, and pixels a side. A
# step of ResNet-32 takes 0.055 s for each of its; that of the BiLSTM was timed on cores
# that were not idle.
_OPERATIONS = {
    "resnet32": (0.127, 32),
    "resnet18": (0.97, 32),
    "resnet34": (2.0, 32),
    "resnet50": (7.9, 224),
    "resnet152": (22.2, 224),
    "sce_cnn": (0.24, 32),
}
_SECONDS_OF_OPERATIONS, _SECONDS_OF_TEXT = 0.055, 0.02
# Of the time of a step that trains everything: the backward pass is two thirds of it.
_SHARE = {"all": 1.0, "last_block": 0.5, "head": 1 / 3, "scale": 1 / 3}


def examples(data: configs.Data) -> int:
    """Training examples of a full data set after holding out and subsampling."""
    from experiments.data import covid, imbalance

    rule = {"long_tail": imbalance.long_tail_counts, "step": imbalance.step_counts}
    counts_of = rule[data.imbalance]
    ratio, classes, published = data.imbalance_ratio, data.classes, data.info.examples
    held_out = data.validation_per_class + data.test_per_class + data.meta_per_class
    if data.source == "covid_lt":  # subsampled before anything is held out
        published = sum(counts_of(round(covid.SCARCEST * ratio), classes, ratio))
    if isinstance(published, int):
        return published - classes * held_out
    counts = [count - held_out for count in published]
    if ratio > 1.0:
        counts = counts_of(min(counts), classes, ratio)
    return sum(counts)


def steps_per_epoch(run: configs.Run) -> int:
    """Updates in an epoch; the last may have fewer examples than the others."""
    return math.ceil(examples(run.data) / run.batch_size)


def seconds(run: configs.Run) -> float | None:
    """Seconds of all training steps on two CPU cores; None if no step was measured."""
    measured = _SECONDS.get(run.model.name)
    if measured is None or run.data.info.files or run.model.blocks:
        return None
    example, step = measured
    return run.epochs * steps_per_epoch(run) * (step + example * run.batch_size)


def estimate(run: configs.Run) -> float:
    """Seconds of all training steps on two CPU cores, by the operations of a network.

    Good to a factor of two or three: it tells hours from weeks.
    """
    passes = run.epochs * examples(run.data) * _SHARE[run.trainable]
    if run.model.name not in _OPERATIONS:
        return passes * _SECONDS_OF_TEXT
    operations, side = _OPERATIONS[run.model.name]
    pixels = (run.data.shape[0] / side) ** 2
    return passes * operations * pixels * _SECONDS_OF_OPERATIONS


def duration(seconds: float) -> str:
    """A duration with two digits and a suitable unit."""
    for unit, name in (
        (365 * 86_400.0, "years"),
        (86_400.0, "days"),
        (3600.0, "h"),
        (60.0, "min"),
    ):
        if seconds >= unit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds:.1g} s"


def cost(run: configs.Run) -> str:
    """The cost of a run on a full data set: steps, and time where it was measured."""
    if not run.data.known:
        return f"{run.epochs} epochs in batches of {run.batch_size} of your examples."
    steps = steps_per_epoch(run)
    text = (
        f"{run.epochs} epochs of {steps:,} steps: {examples(run.data):,} examples in "
        f"batches of {run.batch_size}."
    )
    network, total = run.model.name, seconds(run)
    if total is not None:
        step = total / (run.epochs * steps)
        return (
            f"{text} {network} takes about {step:.1g} s a step on two CPU cores, which "
            f"makes {duration(total)} of training; compiling and evaluation come on "
            "top."
        )
    if run.model.name == "bilstm":
        return f"{text} {network}'s step was not measured here."
    return f"{text} {network} needs a GPU; its step was not measured here."
