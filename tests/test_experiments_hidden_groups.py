"""Groups that are no classes: the tasks, what is measured of them, and the choice."""

import collections
import json
import pathlib

import numpy as np
import pytest

from experiments import configs
from experiments.studies import equal_grids, hidden_groups
from experiments.studies import equal_grids_report as report
from experiments.studies.equal_grids import Job
from experiments.train import evaluation, loop, sharding
from experiments.train.session import Session

TAIL, ATTRIBUTE = "digits-tail-groups", "digits-attribute-groups"


@pytest.fixture(scope="module")
def tail():
    return hidden_groups.load(TAIL, pathlib.Path(), 0)


@pytest.fixture(scope="module")
def attribute():
    return hidden_groups.load(ATTRIBUTE, pathlib.Path(), 0)


@pytest.fixture(scope="module")
def study():
    """One epoch of training."""
    one = equal_grids.study(ATTRIBUTE, pathlib.Path())
    return one._replace(run=configs.replace(one.run, {"epochs": 1}))


def sizes(grouped, split):
    return np.bincount(grouped.groups[split])


def test_the_digits_are_groups_of_even_and_odd_ones_with_a_long_tail(tail):
    for split in ("train", "validation", "test"):
        labels = getattr(tail.task, split).labels
        np.testing.assert_array_equal(labels, tail.groups[split] % 2)
    drawn = sizes(tail, "train") + sizes(tail, "validation")
    assert sorted(drawn, reverse=True) == drawn.tolist()
    assert drawn[0] / drawn[-1] == pytest.approx(hidden_groups.RATIO, rel=0.2)
    assert np.ptp(sizes(tail, "test")) <= 2
    assert set(tail.rare) == {7, 8, 9}


def test_an_attribute_goes_with_the_label_in_training_and_not_in_the_test_set(
    attribute,
):
    for split in ("train", "validation"):
        n = sizes(attribute, split)
        for label, rare in enumerate(attribute.rare):
            share = n[rare] / n[2 * label : 2 * label + 2].sum()
            assert share == pytest.approx(hidden_groups.CONFLICTING, abs=0.01)
    n = sizes(attribute, "test")
    assert abs(n[0] - n[1]) <= 1
    assert abs(n[2] - n[3]) <= 1
    # An inverted image has a bright border; what is standardised keeps the order.
    corner = attribute.task.test.inputs[:, 0]
    bright = attribute.groups["test"] % 2 == 0
    assert corner[bright].min() > corner[~bright].max()


@pytest.mark.parametrize("name", [TAIL, ATTRIBUTE])
def test_seeds_draw_other_splits_of_equal_sizes_and_share_no_image(name):
    one, other = (hidden_groups.load(name, pathlib.Path(), seed) for seed in (0, 1))
    assert not np.array_equal(one.task.test.inputs, other.task.test.inputs)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(sizes(one, split), sizes(other, split))
    train, validation, test = (
        set(map(bytes, part.inputs))
        for part in (one.task.train, one.task.validation, one.task.test)
    )
    assert not train & validation
    assert not test & (train | validation)


def test_resampled_examples_are_the_same_ones_equally_many_of_each_group(tail):
    train, resampled = tail.task.train, tail.resampled()
    assert len(resampled.train.labels) == len(train.labels)
    group_of = dict(zip(map(bytes, train.inputs), tail.groups["train"], strict=True))
    drawn = collections.Counter(group_of[bytes(x)] for x in resampled.train.inputs)
    assert max(drawn.values()) - min(drawn.values()) <= 1
    rarest = train.inputs[tail.groups["train"] == 9]
    assert set(map(bytes, rarest)) <= set(map(bytes, resampled.train.inputs))
    np.testing.assert_array_equal(
        resampled.class_counts, np.bincount(resampled.train.labels)
    )
    assert resampled.test is tail.task.test


def test_accuracies_of_groups_are_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    odds, labels = rng.normal(size=200), rng.integers(0, 2, 200)
    groups = rng.integers(0, 4, 200)
    right = collections.defaultdict(list)
    for o, label, group in zip(odds, labels, groups, strict=True):
        right[int(group)].append((o > 0) == bool(label))
    means = {group: sum(each) / len(each) for group, each in right.items()}
    found = hidden_groups.by_group(odds, labels, groups, (1, 3))
    assert found == pytest.approx(
        {
            "accuracy": sum(map(sum, right.values())) / 200,
            "balanced": sum(means.values()) / 4,
            "rare": (means[1] + means[3]) / 2,
            "worst": min(means.values()),
        }
    )
    absent = hidden_groups.by_group(odds, labels, np.zeros(200, int), (1,))
    assert np.isnan(absent["rare"])


@pytest.mark.parametrize("name", ["digits", "digits-colour-groups", "wine-groups"])
def test_a_name_that_is_no_task_is_refused(tmp_path, name):
    with pytest.raises(configs.BadConfiguration, match=f"{TAIL}.*got {name}"):
        equal_grids.study(name, tmp_path)


@pytest.mark.parametrize("method", ["sgd", "by_group"])
def test_what_is_recorded_is_what_a_single_run_has(study, method):
    setting, other = study.settings(method)[:2]
    line, _ = equal_grids.train(study, [Job(setting, 0, 1), Job(other, 0, 2)])
    grouped = hidden_groups.load(ATTRIBUTE, pathlib.Path(), 1)
    layout = sharding.layout(1)
    task = grouped.resampled() if method == report.BY_GROUP else grouped.task
    run = configs.replace(setting.run, {"seed": 1})
    start = loop.begin(run, task, layout)
    callbacks = loop.Callbacks(lambda **event: None)
    state = loop.fit(run, task, layout, Session(), start, callbacks)
    logits = evaluation.outputs_of("logits", state, task.test, run, layout)
    expected = hidden_groups.by_group(
        logits[:, 1] - logits[:, 0],
        task.test.labels,
        grouped.groups["test"],
        grouped.rare,
    )
    assert line["test"] == pytest.approx(expected, abs=0.004)


def test_weights_begin_at_the_first_step_but_those_of_a_second_stage(study):
    late = {
        method
        for method in study.methods
        for setting in study.settings(method)
        if setting.run.method.info.weights and setting.run.method.start_at > 0.0
    }
    assert late == {"absgd"}


def test_both_choices_are_on_the_page(study, attribute):
    """One setting is best by accuracy, another by the mean of the groups."""
    settings = study.settings("sgd")[:2]
    found = equal_grids.train(
        study, [Job(s, 0, seed) for s in settings for seed in (0, 1)]
    )
    assert sum(found[0]["groups"]) == len(attribute.task.train.labels)
    for line in found:
        first = line["rate"] == settings[0].rate
        line["validation"] = {"accuracy": 0.9 if first else 0.8}
        line["validation"]["balanced"] = 1.0 - line["validation"]["accuracy"]
    page = report.groups(json.loads(json.dumps(found)))
    assert "Even and odd digits; inverted images are the groups" in page
    by_accuracy, by_groups = (
        line for line in page.splitlines() if line.startswith("| SGD ")
    )
    assert f"η = {settings[0].rate:g} " in by_accuracy
    assert f"η = {settings[1].rate:g} " in by_groups
    assert report.groups([]) == ""
    assert report.tables(found) == ""
