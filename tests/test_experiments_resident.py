"""Many updates a dispatch, on resident data: the numbers of the loop over batches."""

import copy

import jax
import numpy as np
import pytest

from experiments import configs
from experiments.data import loader
from experiments.data.task import load_task
from experiments.results import metrics, run_log
from experiments.train import device_loop, loop, steps
from experiments.train.session import Session
from tests import training_problem as problem
from tests.digits_problem import EXAMPLES, LAYOUT, PER_EPOCH, RUN

# Seven updates an epoch are a dispatch of four and one of three.
SESSIONS = {k: Session(steps_per_dispatch=k) for k in (1, 4)}


@pytest.fixture(scope="module")
def task():
    return load_task(RUN.data, 0)


def _fit(run, task, many, start=None, due=lambda step: False):
    """Events, what was shown of every step, what was saved, and the state."""
    session = SESSIONS[many]
    events, shown, saved = [], [], []
    callbacks = loop.Callbacks(
        lambda **event: events.append(event),
        lambda step, numbers: shown.append((step, *numbers.values())),
        due,
        lambda step, state, place: saved.append(
            (step, jax.device_get(state), copy.deepcopy(place))
        ),
    )
    start = start or loop.begin(run, task, LAYOUT)
    state = loop.fit(run, task, LAYOUT, session, start, callbacks)
    events = [run_log.to_jsonable(event) for event in events]
    for event in events:
        del event["seconds"], event["waited"]
    return events, shown, saved, jax.device_get(state)


@pytest.fixture(scope="module")
def by_one(task):
    return _fit(RUN, task, 1)


def _assert_same(ours, theirs):
    """To float32 rounding, and what is counted exactly."""
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            if isinstance(value, dict):  # an evaluation
                np.testing.assert_allclose(value["loss"], other[key]["loss"], rtol=1e-3)
            elif isinstance(value, float | list):
                mean, others = (np.asarray(x, float) for x in (value, other[key]))
                np.testing.assert_allclose(mean, others, rtol=1e-4, err_msg=key)
            else:
                assert value == other[key], key
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    problem.same(ours[3], theirs[3], atol=1e-5)


def test_many_steps_at_once_are_the_steps_one_by_one(task, by_one):
    """Order, moves and dropout, the switch, the short last batch, and every sum."""
    _assert_same(_fit(RUN, task, 4), by_one)


def test_a_rest_of_an_epoch_compiles_nothing_more(task):
    assert device_loop.dispatch_size(PER_EPOCH, 4) == 4
    _fit(RUN, task, 4)
    assert device_loop.compiled(RUN, LAYOUT)._cache_size() == 1
    other = configs.replace(RUN, {"seed": 3, "method.lam": 2.0, "method.gamma": 0.1})
    _fit(other, task, 4)
    assert device_loop.compiled(other, LAYOUT)._cache_size() == 1


def test_other_methods_and_samplers_too(task):
    """Two programs, by the switch; truncation looks at the examples between epochs."""
    changes = {
        "method": configs.Method("eg_examples", step_size=0.1, start_at=0.5),
        "loss.name": "truncated",
        "loss.k": 0.1,
        "loss.prune_from": 0.5,
        "loss.class_weights": True,
        "loss.class_weights_from": 0.5,
        "data.sampling": "balanced",
        "data.crop_padding": 0,
        "data.augment_on": "host",  # which then has nothing to do
        "model.dropout": 0.0,
        "optimizer.decay": "cosine",
        "optimizer.drop_at": (),
    }
    run = configs.replace(RUN, changes)
    ours, theirs = (_fit(run, task, many) for many in (4, 1))
    _assert_same(ours, theirs)
    np.testing.assert_array_equal(ours[3].kept, theirs[3].kept)
    assert 0 < ours[3].kept.sum() < EXAMPLES


def test_an_evaluation_comes_every_so_many_epochs_and_at_the_end(task):
    events, *_ = _fit(configs.replace(RUN, {"eval_every": 2}), task, 4)
    evaluated = [event["test"] is not None for event in events]
    assert evaluated == [False, True, True]


def test_truncation_looks_at_the_examples_every_so_many_epochs():
    loss = configs.Loss("truncated", prune_from=0.5, prune_every=2)
    run = configs.replace(RUN, {"loss": loss, "epochs": 8})
    assert [epoch for epoch in range(8) if loop._prunes(run, epoch)] == [4, 6]


def test_who_goes_on_in_the_middle_of_an_epoch_drops_nothing_more(task):
    loss = configs.Loss("truncated", k=0.1, prune_from=0.34)
    run = configs.replace(RUN, {"loss": loss})
    state = loop.begin(run, task, LAYOUT).state
    stepper = loop._OneRun(run, task, LAYOUT, SESSIONS[4], state, None)
    stepper.begin_epoch(1, first=3)
    assert np.asarray(stepper.state.kept).all()
    stepper.begin_epoch(1)
    assert not np.asarray(stepper.state.kept).all()


def test_the_step_knows_the_counts_and_the_wrong_labels_of_the_task(task):
    stats = loop.dataset_stats(RUN, task, LAYOUT)
    np.testing.assert_array_equal(stats.class_counts, task.class_counts)
    np.testing.assert_array_equal(stats.mislabelled, task.mislabelled)


def test_frequent_and_rare_classes_are_those_of_training(task):
    """Their training examples, whatever the evaluated set has of them."""
    counts = np.array([101, 20, 1] + [0] * 7)
    some = task._replace(class_counts=counts)
    labels = task.test.labels
    logits = np.eye(10, dtype=np.float32)[labels]
    logits[labels == 1, 1] = -1.0
    measured = metrics.count(logits, labels, np.ones(len(labels), bool))
    found = loop.summaries(RUN, some, lambda split: measured)
    for split in loop.SPLITS:
        of_split = found[split]
        assert (of_split["many"], of_split["medium"]) == (1.0, 0.0)
        assert of_split["few"] == 1.0


def test_an_epoch_is_the_mean_over_its_examples():
    """Not over its batches, of which the last one is smaller."""
    totals = {}
    for examples, loss in ((30, 60.0), (10, 60.0)):
        step_metrics = steps.StepMetrics(
            examples=examples,
            loss=loss,
            tilted_loss=1.0,
            lam=2.0,
            weight=examples * 1.0,
            effective=0.5,
            largest=2.0,
            weight_of_class=np.array([examples * 1.0, 0.0]),
            examples_of_class=np.array([examples, 0]),
            weight_mislabelled=0.1 * examples,
            examples_mislabelled=0.2 * examples,
            not_finite=np.array([-1]),
        )
        loop._add(totals, step_metrics)
    found = loop._summary(totals)
    assert found["loss"] == pytest.approx(3.0)
    assert found["weight_clean"] == pytest.approx(0.9 / 0.8)
    assert found["weight_mislabelled"] == pytest.approx(0.1 / 0.2)
    np.testing.assert_allclose(found["weight_by_class"], [1.0, np.nan])


def test_an_epoch_has_its_time_from_before_a_resume(task):
    _, _, saved, _ = _fit(RUN, task, 1, due=lambda step: step == 11)
    (state, place), events = next(each[1:] for each in saved if each[0] == 11), []
    assert place.seconds >= place.waited > 0.0
    callbacks = loop.Callbacks(lambda **event: events.append(event))
    place = place._replace(seconds=1e3 + place.seconds, waited=1e2 + place.waited)
    start = loop.Start(LAYOUT.replicate(state), place)
    loop.fit(RUN, task, LAYOUT, SESSIONS[1], start, callbacks)
    assert [event["seconds"] > 1e3 for event in events] == [True, False]
    assert [event["waited"] > 1e2 for event in events] == [True, False]


def test_what_is_saved_between_dispatches_is_gone_on_with(task, by_one):
    whole = _fit(RUN, task, 4, due=lambda step: step == 11)
    saved = {step: (state, place) for step, state, place in whole[2]}
    assert sorted(saved) == [7, 11, 14, 21]
    state, place = saved[11]
    assert (place.epoch, place.batch) == (1, 4)
    assert place.totals["steps"] == 4
    assert place.seconds > 0.0
    rest = _fit(RUN, task, 4, loop.Start(LAYOUT.replicate(state), place))
    assert [shown[0] for shown in rest[1]] == list(range(12, 22))
    problem.same(rest[3], whole[3])
    # Also one by one, from where no dispatch of its own would have ended.
    rest = _fit(RUN, task, 1, loop.Start(LAYOUT.replicate(state), place))
    problem.same(rest[3], by_one[3], atol=1e-5)


def test_a_loss_that_is_not_finite_is_named_by_its_step(task):
    labels = task.train.labels.copy()
    place = int(loader.order(0, 0, EXAMPLES)[32 * 5 + 3])  # of the sixth batch
    labels[place] = 10  # of which there is no loss
    bad = task._replace(train=task.train._replace(labels=labels))
    # By its place in the training split, of which the task is a part.
    assert task.rows[place] != place
    for many in (1, 4):
        with pytest.raises(FloatingPointError, match=f"step 6: .* {task.rows[place]} "):
            _fit(RUN, bad, many)


def test_image_files_are_refused():
    data = configs.Data(source="places_lt", image_size=8)
    run = configs.Run(data=data, model=configs.Model("resnet18"))
    with pytest.raises(configs.BadConfiguration, match="places_lt is decoded image by"):
        device_loop.require(run)
