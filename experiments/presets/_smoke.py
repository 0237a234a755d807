"""Smoke presets: any run made so small that it takes seconds."""

import math

from experiments import configs

# Most of the cost of a smoke preset is compilation, so networks have one stage; and
# they are the same wherever they can be, so that smoke presets share programs. Networks
# that differ only in the number of blocks become the same.
_SAME = {"resnet20": "resnet32", "resnet34": "resnet18", "resnet152": "resnet50"}
_WIDTHS: dict[str, tuple[int, ...]] = {
    "convnet": (4, 8),
    "resnet32": (2,),
    "resnet18": (2,),
    "resnet50": (2,),
    "sce_cnn": (2, 8),
    "bilstm": (8,),
    "mlp": (8,),
}
_RESIDUAL = ("resnet32", "resnet18", "resnet50")


def smoke(run: configs.Run) -> configs.Run:
    """A tiny run with the same rules of data, loss, method and schedule.

    Three epochs are the fewest in which every stage of a schedule has one: plain SGD,
    then λ, class weights and truncation, all of which begin at two thirds of the
    training or four fifths of it.

    Classes keep enough examples for every rule to have an effect: of each class one is
    mislabelled, and at the ratio of 2 no class is empty. Data sets of more than a
    hundred classes keep one example of each. The data set may be incomplete.
    """
    data = run.data
    many = data.classes > 100
    fewest = math.ceil(1.0 / data.noise_rate) if data.noise_rate else 2
    per_class = 1 if many else max(fewest, 50 // data.classes)
    model = _SAME.get(run.model.name, run.model.name)
    widths = _WIDTHS[model]
    held_out = {
        "data.validation_per_class": min(data.validation_per_class, 1),
        "data.test_per_class": min(data.test_per_class, 2),
        "data.meta_per_class": min(data.meta_per_class, 1),
    }
    changes = held_out | {
        "data.partial": True,
        "data.imbalance_ratio": min(data.imbalance_ratio, 2.0),
        "data.examples_per_class": per_class + sum(held_out.values()),
        "model.name": model,
        "model.widths": widths,
        "model.blocks": (1,) * len(widths) if model in _RESIDUAL else (),
        "model.pretrained": None,
        "epochs": 3,
        "batch_size": 50 if data.classes == 100 else 8,
    }
    if data.info.files:
        changes["data.image_size"] = 32
    if data.source == "covid_lt":  # a tail from the start, which a cap would even out
        changes["data.total"] = 3 * per_class
    if data.info.inputs == "text":
        changes |= {"data.vocabulary": 200, "data.length": 20}
    return configs.replace(run, changes)
