"""Every preset starts: its smoke preset, on small data in the true format."""

import collections
import functools
import math

import pytest

from experiments import configs, presets
from experiments.results import run_dir, run_log
from experiments.train import runs
from experiments.train.session import Session
from tests import trees

# Presets that can share programs lie together, in one test: compiling is most of what
# they cost.
GROUPS = collections.defaultdict(list)
for _preset in presets.every():
    _small = presets.get(f"{_preset.name}_smoke")
    GROUPS[f"{_small.run.data.source}-{_small.run.model.name}"].append(_small)


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

    return written


@pytest.fixture
def train(data_dir, tmp_path):
    """Trains a run, if none like it was: smoke presets differ less than presets do."""

    @functools.cache
    def trained(run):
        out = tmp_path / f"run{trained.cache_info().misses}"
        where = data_dir(run.data.source, run.data.examples_per_class)
        session = Session(out, where, workers=0, tensorboard=False)
        assert runs.main("any", run, session) == 0
        return out

    return trained


@pytest.mark.parametrize("group", GROUPS)
def test_every_preset_starts(group, train):
    weighted = set()
    for preset in GROUPS[group]:
        run = _short(preset.run)
        if preset.needs is not None:
            first = _short(presets.get(preset.needs).run)
            run = configs.replace(run, {"start_from": train(first)})
        out = train(run)
        _did_as_it_was_told(out, run)
        kind = (run.loss.name, run.loss.class_weights_norm, run.trainable)
        if run.loss.class_weights and kind not in weighted and _uneven(out):
            weighted.add(kind)
            plain = configs.replace(run, {"loss.class_weights": False})
            _differs_from_its_switch_on(out, train(plain), run)


def _short(run):
    """Two epochs where every stage then has one; evaluated after the last alone."""
    stages = (run.method.start_at, run.loss.class_weights_from, run.loss.prune_from)
    two = all(round(2 * share) < 2 for share in stages if share < 1.0)
    epochs = 2 if two else run.epochs
    return configs.replace(run, {"epochs": epochs, "eval_every": epochs})


def _epochs(out):
    """The epochs of a run, without what is not the same twice."""
    epochs = [e for e in run_log.read(out / run_dir.RECORDS) if e["event"] == "epoch"]
    for epoch in epochs:
        del epoch["seconds"], epoch["waited"]
    return epochs


def _did_as_it_was_told(out, run):
    """Losses are finite; λ, noise and class counts are what the run asks for."""
    data, method = run.data, run.method
    epochs = _epochs(out)
    assert len(epochs) == run.epochs
    assert epochs[-1]["step"] >= 2
    for epoch in epochs:
        assert math.isfinite(epoch["loss"])
        assert math.isfinite(epoch["tilted_loss"])
        switched = epoch["epoch"] > run.epoch_at(method.start_at)
        lam = method.lam if switched else method.first_lam
        assert float(epoch["lam"]) == pytest.approx(lam if method.attends else math.inf)
        wrong = epoch["weight_mislabelled"]
        assert (wrong is not None) == (data.noise_rate > 0.0)
    assert math.isfinite(epochs[-1]["test"]["accuracy"])

    counts = run_dir.load(out).class_counts
    held_out = data.validation_per_class + data.test_per_class
    per_class = data.examples_per_class - held_out
    if data.info.files:
        there = [count for count in counts if count]
        assert 0 < max(there) <= per_class
        assert max(there) >= data.imbalance_ratio * min(there)
    elif data.noise_rate:
        assert sum(counts) == per_class * data.classes
    else:
        head, tail = (0, -1) if not data.scarce_first else (-1, 0)
        assert max(counts) == counts[head] == per_class
        assert min(counts) == counts[tail]
        assert counts[tail] == pytest.approx(per_class / data.imbalance_ratio, abs=1)
        assert counts == sorted(counts, reverse=not data.scarce_first)
        if data.imbalance == "step":
            assert len(set(counts)) <= 2


def _uneven(out):
    """Whether classes have unequal numbers of examples, and so unequal weights."""
    return len({count for count in run_dir.load(out).class_counts if count}) > 1


def _differs_from_its_switch_on(weighted, plain, run):
    """Class weights change the loss from their time on, and nothing before it."""
    switch = run.epoch_at(run.loss.class_weights_from)
    assert _epochs(weighted)[:switch] == _epochs(plain)[:switch]
    for one, other in zip(
        _epochs(weighted)[switch:], _epochs(plain)[switch:], strict=True
    ):
        assert one["loss"] != pytest.approx(other["loss"], rel=1e-4)
