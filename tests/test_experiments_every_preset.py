"""Every preset gets its data; as few as have every setting are trained.

They are smoke presets, on small data in the true formats.
"""

import functools
import math

import chex
import jax
import numpy as np
import pytest

from experiments import configs, methods, presets
from experiments.data import datasets, imbalance
from experiments.data.loader import Batch
from experiments.data.task import load_task
from experiments.results import run_log
from experiments.train import runs, sharding, steps
from experiments.train.session import Session
from tests import programs, trees

SMOKE = [presets.get(f"{preset.name}_smoke") for preset in presets.every()]


# Which examples there are decides no program, and is held below for every preset; what
# an update makes of a gradient no network knows of, and the rest has a test of its own.
ELSEWHERE = (
    "run.data.source", "run.data.examples_per_class", "run.data.imbalance",
    "run.data.total", "run.data.corruption_seed", "run.data.tail_classes",
    "run.optimizer", "run.method.first_lam", "run.loss.class_weights_",
)  # fmt: skip


def _settings(run):
    """Every field with its value: of a number whether it is 0 or 1, a list's length.

    By format those of data but noise, which is in labels; networks see prepared inputs,
    losses and methods logits. Without those of `ELSEWHERE`.
    """
    source = run.data.source
    form = "files" if run.data.info.files else source.rstrip("01")  # one CIFAR

    def flat(name, value):
        if name.startswith(ELSEWHERE):
            return set()
        if isinstance(value, dict):
            return set().union(*(flat(f"{name}.{k}", v) for k, v in value.items()))
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = value in (0, 1)
        elif isinstance(value, list):
            value = len(value)
        by_format = name.startswith("run.data") and "noise" not in name
        return {(form if by_format else "any", name, str(value))}

    return flat("run", run_log.to_jsonable(run) | {"seed": 0})


def _fewest_with_every_setting():
    """Presets that have all settings of all presets, chosen one by one."""
    settings = {preset.name: _settings(preset.run) for preset in SMOKE}
    left, chosen = set().union(*settings.values()), []
    while left:
        best = max(SMOKE, key=lambda preset: len(settings[preset.name] & left))
        chosen.append(best)
        left -= settings[best.name]
    return chosen


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Writes a data set when it is asked for, once; no more than is used of it."""

    @functools.cache
    def written(source, per_class):
        root = tmp_path_factory.mktemp(source)
        if source in trees.CLASSES:
            trees.tfds_cifar(root, source, train=per_class, test=1)
            return root
        return trees.build(source, root)

    with datasets.remembering():
        yield lambda data: written(data.source, data.examples_per_class)


@pytest.fixture(scope="module")
def train(data_dir, tmp_path_factory):
    """Trains a run, unless it was trained."""

    @functools.cache
    def trained(run):
        out = tmp_path_factory.mktemp("runs") / "run"
        session = Session(out, data_dir(run.data), workers=0, tensorboard=False)
        assert runs.main("any", run, session) == 0
        return out

    return trained


@pytest.mark.parametrize("preset", _fewest_with_every_setting(), ids=lambda p: p.name)
def test_a_preset_trains_with_its_schedule(preset, train):
    """Losses are finite; λ and the weight of wrong labels are those of its run."""
    run = _short(preset.run)
    if preset.needs is not None:
        first = _short(presets.get(preset.needs).run)
        run = configs.replace(run, {"start_from": train(first)})
    method, epochs = run.method, programs.epochs(train(run))
    assert len(epochs) == run.epochs
    assert epochs[-1]["step"] >= 2
    for epoch in epochs:
        assert math.isfinite(epoch["loss"])
        assert math.isfinite(epoch["tilted_loss"])
        switched = epoch["epoch"] > run.epoch_at(method.start_at)
        lam = method.lam if switched else method.first_lam
        assert float(epoch["lam"]) == pytest.approx(lam if method.attends else math.inf)
        wrong = epoch["weight_mislabelled"]
        assert (wrong is not None) == (run.data.noise_rate > 0.0)
    assert math.isfinite(epochs[-1]["test"]["accuracy"])


@pytest.mark.parametrize("name", ["cb_focal", "drw_ce"])
def test_class_weights_change_the_loss_from_their_switch_on(name, train):
    run = _short(presets.get(f"cifar10_lt100_{name}_smoke").run)
    weighted = programs.epochs(train(run))
    plain = programs.epochs(train(configs.replace(run, {"loss.class_weights": False})))
    switch = run.epoch_at(run.loss.class_weights_from)
    assert 0 < switch < run.epochs
    assert weighted[:switch] == plain[:switch]
    for one, other in zip(weighted[switch:], plain[switch:], strict=True):
        assert one["loss"] != pytest.approx(other["loss"], rel=1e-4)


def _short(run):
    """Two epochs where every stage then has one; evaluated after the last alone."""
    stages = (run.method.start_at, run.loss.class_weights_from, run.loss.prune_from)
    two = all(round(2 * share) < 2 for share in stages if share < 1.0)
    epochs = 2 if two else run.epochs
    return configs.replace(run, {"epochs": epochs, "eval_every": epochs})


@pytest.mark.parametrize(
    "data", dict.fromkeys(p.run.data for p in SMOKE), ids=lambda d: d.source
)
def test_the_classes_of_every_preset_are_as_uneven_as_it_asks_for(data, data_dir):
    counts = load_task(data, 0, data_dir(data)).class_counts
    held_out = data.validation_per_class + data.test_per_class
    per_class = data.examples_per_class - held_out
    if data.info.files:
        there = counts[counts > 0]
        assert 0 < there.max() <= per_class
        assert there.max() >= data.imbalance_ratio * there.min()
    elif data.noise_rate:
        # Flipped labels move examples from class to class, and lose none.
        ratio = data.imbalance_ratio
        tail = imbalance.long_tail_counts(per_class, data.classes, ratio)
        assert counts.sum() == sum(tail)
    else:
        falling = counts[::-1] if data.scarce_first else counts
        assert (np.diff(falling) <= 0).all()
        assert falling[0] == per_class
        assert falling[-1] == pytest.approx(per_class / data.imbalance_ratio, abs=1)
        assert data.imbalance != "step" or len(set(falling)) <= 2


def test_networks_and_losses_go_together_and_keep_the_types_of_the_state():
    layout, examples = sharding.layout(1), 20
    every = (preset.run for preset in SMOKE)
    together = {(run.model, run.loss.name, run.trainable): run for run in every}
    for run in together.values():
        state = steps.abstract_state(run, layout, examples)
        data, ones = run.data, np.ones(run.batch_size, np.int32)
        inputs = np.zeros((run.batch_size, *data.shape), np.uint8)
        of_classes = np.ones(data.classes, np.float32)
        stats = steps.DatasetStats(of_classes, of_classes, np.zeros(examples, bool))
        after, seen = jax.eval_shape(
            steps.updates_of(run),
            state,
            Batch(inputs, ones, ones > 0, ones),
            stats,
            methods.step_hyperparams(run, 2, 0),
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        assert seen.weight_of_class.shape == of_classes.shape
