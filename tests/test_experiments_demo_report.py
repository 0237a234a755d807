"""What is read off the demo's runs."""

import dataclasses
import math

import numpy as np

from experiments.studies import demo as demo_report
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL
from tests.outcomes import outcome

STUDY = dataclasses.replace(LONG_TAIL, lams=(1.0, 0.5, 0.25))


def _outcome(validation, test, diverged=()):
    """Two epochs of a run for each seed."""
    of_seed = lambda score: {
        "weight_by_class": [1.0] * 10,
        "weight_clean": 1.2,
        "weight_mislabelled": 0.1,
        "step": 594,
        "validation": {"accuracy": validation},
        "test": {"accuracy": score, "recall": [score] * 10, "tail_recall": score / 2.0},
    }
    return outcome(
        {seed: [of_seed(score)] * 2 for seed, score in test.items()}, diverged
    )


def _outcomes(seeds=3):
    """Three seeds, the last one missing for two λ; 0.5 is best on validation."""
    scores = {math.inf: (0.80, 0.60), 1.0: (0.81, 0.62), 0.5: (0.83, 0.64)}
    scores[0.25] = (0.82, 0.70)  # best on test, which must not be looked at
    return {
        lam: _outcome(
            validation,
            {s: test + 0.02 * s for s in range(min(seeds, 3 if lam > 0.5 else 2))},
        )
        for lam, (validation, test) in scores.items()
    }


def _table(study, outcomes):
    return demo_report.table(study, demo_report.compare(study, outcomes))


def test_lam_is_chosen_on_validation_and_incomplete_seeds_are_left_out():
    found = demo_report.compare(STUDY, _outcomes())
    assert found.lam == 0.5
    assert [*found.sgd.results] == [*found.absgd.results] == [0, 1]
    accuracy = found.absgd.last(lambda e: e["test"]["accuracy"])
    np.testing.assert_allclose(accuracy, [0.64, 0.66])
    course = found.absgd.course(lambda e: e["weight_by_class"])
    assert course.shape == (2, 2, 10)


def test_of_equal_lams_the_one_nearer_to_sgd_is_taken():
    outcomes = {lam: _outcome(0.8, {0: 0.6}) for lam in (math.inf, *STUDY.lams)}
    assert demo_report.compare(STUDY, outcomes).lam == 1.0


def test_what_diverged_is_not_chosen():
    outcomes = _outcomes() | {0.5: _outcome(0.83, {0: 0.64}, diverged=[1])}
    assert demo_report.compare(STUDY, outcomes).lam == 0.25
    assert "λ = 0.5 diverged" in _table(STUDY, outcomes)
    outcomes[math.inf] = _outcome(0.8, {1: 0.6}, diverged=[0])
    assert demo_report.compare(STUDY, outcomes) is None


def test_nothing_finished_is_no_comparison():
    nothing = {lam: _outcome(0.8, {}) for lam in (math.inf, *STUDY.lams)}
    assert demo_report.compare(STUDY, nothing) is None
    only_sgd = nothing | {math.inf: _outcome(0.8, {0: 0.6})}
    assert demo_report.compare(STUDY, only_sgd) is None
    assert "No seed was finished by every method." in _table(STUDY, only_sgd)


def test_the_table_says_mean_spread_and_paired_difference():
    lines = _table(STUDY, _outcomes()).splitlines()
    assert "| SGD        | ∞   | 61.0 ± 1.4    | 30.5 ± 0.7  |" in lines
    assert "| ABSGD      | 0.5 | 65.0 ± 1.4    | 32.5 ± 0.7  |" in lines
    assert "| difference |     | +4.0 ± 0.0    | +2.0 ± 0.0  |" in lines
    text = "\n".join(lines)
    assert "2 seeds" in text
    assert "SGD 80.0, λ = 1 81.0, λ = 0.5 83.0, λ = 0.25 82.0" in text
    assert "labels clean" in text


def test_a_loss_of_accuracy_is_printed_as_it_is():
    study = dataclasses.replace(LABEL_NOISE, lams=(-2.0,))
    outcomes = {
        math.inf: _outcome(0.5, {0: 0.6, 1: 0.6}),
        -2.0: _outcome(0.5, {0: 0.55, 1: 0.53}),
    }
    table = _table(study, outcomes)
    assert "| difference |    | −6.0 ± 1.0    |" in table
    assert "as noisy as the training's" in table


def test_one_seed_has_no_spread():
    assert "| 64.0          | 32.0        |" in _table(STUDY, _outcomes(seeds=1))


def test_the_figure_is_drawn_from_what_there_is(figures, tmp_path):
    found = demo_report.compare(STUDY, _outcomes())
    demo_report.figure({"long-tail": found, "label-noise": None}, tmp_path / "half.png")
    whole = found._replace(study=LABEL_NOISE)
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
