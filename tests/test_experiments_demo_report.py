"""What is read off the demo's records."""

import dataclasses
import json
import math

import numpy as np

from experiments.results import run_log
from experiments.studies import demo_report
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL

STUDY = dataclasses.replace(LONG_TAIL, lams=(1.0, 0.5, 0.25), seeds=3)


def _run(lam, seed, validation, test, finished=True, study=STUDY):
    """Two epochs of a run, as `train.run` records them and a file brings them back."""
    event = {
        "study": study.name,
        "lam": lam,
        "seed": seed,
        "weight_by_class": [1.0] * 10,
        "weight_clean": 1.2,
        "weight_mislabelled": 0.1,
        "validation": {"accuracy": validation},
    }
    last = {
        **event,
        "step": 594,
        "class_counts": list(range(100, 0, -10)),
        "test": {
            "accuracy": test,
            "recall": [test] * 10,
            "tail_recall": test / 2.0,
        },
    }
    events = [event | {"epoch": 1}, (last if finished else event) | {"epoch": 2}]
    return json.loads(json.dumps(run_log.plain(events)))


def _records():
    """Three seeds, the last of them cut off; λ = 0.5 is best on validation."""
    scores = {math.inf: (0.80, 0.60), 1.0: (0.81, 0.62), 0.5: (0.83, 0.64)}
    scores[0.25] = (0.82, 0.70)  # best on test, which must not be looked at
    return [
        event
        for seed in range(3)
        for lam, (validation, test) in scores.items()
        for event in _run(
            lam, seed, validation, test + 0.02 * seed, finished=seed < 2 or lam > 0.5
        )
    ]


def test_lam_is_chosen_on_validation_and_incomplete_seeds_are_left_out():
    found = demo_report.outcome(STUDY, _records())
    assert found.lam == 0.5
    assert found.seeds == [0, 1]
    accuracy = found.last(0.5, lambda e: e["test"]["accuracy"])
    np.testing.assert_allclose(accuracy, [0.64, 0.66])
    course = found.course(0.5, lambda e: e["weight_by_class"])
    assert course.shape == (2, 2, 10)


def test_of_equal_lams_the_one_nearer_to_sgd_is_taken():
    records = [
        event for lam in (math.inf, *STUDY.lams) for event in _run(lam, 0, 0.8, 0.6)
    ]
    assert demo_report.outcome(STUDY, records).lam == 1.0


def test_nothing_finished_is_no_outcome():
    assert demo_report.outcome(STUDY, []) is None
    assert demo_report.outcome(STUDY, _run(math.inf, 0, 0.8, 0.6)) is None
    assert demo_report.outcome(LABEL_NOISE, _records()) is None


def test_the_table_says_mean_spread_and_paired_difference():
    lines = demo_report.table(demo_report.outcome(STUDY, _records())).splitlines()
    assert "| SGD        | ∞   | 61.0 ± 1.4    | 30.5 ± 0.7  |" in lines
    assert "| ABSGD      | 0.5 | 65.0 ± 1.4    | 32.5 ± 0.7  |" in lines
    assert "| difference |     | +4.0 ± 0.0    | +2.0 ± 0.0  |" in lines
    text = "\n".join(lines)
    assert "2 seeds" in text
    assert "SGD 80.0, λ = 1 81.0, λ = 0.5 83.0, λ = 0.25 82.0" in text
    assert "labels clean" in text


def test_a_loss_of_accuracy_is_printed_as_it_is():
    records = [
        event
        for seed in range(2)
        for lam, test in ((math.inf, 0.6), (-2.0, 0.55 - 0.02 * seed))
        for event in _run(lam, seed, 0.5, test, study=LABEL_NOISE)
    ]
    study = dataclasses.replace(LABEL_NOISE, lams=(-2.0,))
    table = demo_report.table(demo_report.outcome(study, records))
    assert "| difference |    | −6.0 ± 1.0    |" in table
    assert "as noisy as the training's" in table


def test_one_seed_has_no_spread():
    records = [e for e in _records() if e["seed"] == 0]
    table = demo_report.table(demo_report.outcome(STUDY, records))
    assert "| 64.0          | 32.0        |" in table


def test_the_figure_is_drawn_from_what_there_is(figures, tmp_path):
    found = demo_report.outcome(STUDY, _records())
    demo_report.figure({"long-tail": found, "label-noise": None}, tmp_path / "half.png")
    whole = dataclasses.replace(found, study=LABEL_NOISE)
    demo_report.figure(
        {"long-tail": found, "label-noise": whole}, tmp_path / "whole.png"
    )
    by_class, recall, missing = figures["half.png"].axes
    assert len(by_class.get_legend_handles_labels()[0]) == 10
    assert len(recall.containers) == 2  # SGD and ABSGD
    assert not missing.lines
    clean, mislabelled = figures["whole.png"].axes[2].lines[:2]
    np.testing.assert_allclose(clean.get_ydata(), 1.2)
    np.testing.assert_allclose(mislabelled.get_ydata(), 0.1)
