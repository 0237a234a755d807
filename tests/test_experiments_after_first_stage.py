"""What the losses after plain training say of a fixed λ: the runs and their page."""

import pathlib

import numpy as np

from experiments import after_first_stage, record, untuned
from experiments.untuned_report import SGD, Setting

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_records_make():
    records = record.read(DOCS / "after_first_stage.jsonl")
    page = (DOCS / "after_first_stage.md").read_bytes()
    assert after_first_stage.page(records).encode() == page
    assert {line["data"] for line in records} == set(after_first_stage.names())


def test_the_training_part_alone_is_thinned_and_relabelled(tmp_path):
    clean = after_first_stage.task("digits 1 0", tmp_path, [0])
    noisy = after_first_stage.task("digits 1 0.2", tmp_path, [0])
    tailed = after_first_stage.task("digits 20 0", tmp_path, [0])
    np.testing.assert_allclose(
        np.mean(noisy.train[1] != clean.train[1]), 0.2, atol=0.01
    )
    counts = np.bincount(tailed.train[1][0])
    np.testing.assert_allclose(counts[0] / counts[-1], 20.0, rtol=0.2)
    for other in (noisy, tailed):
        for part, (_, labels) in clean.held_out.items():
            np.testing.assert_array_equal(other.held_out[part][1], labels)


def test_records_have_the_share_that_the_network_gets_wrong(tmp_path):
    (line,) = after_first_stage.measure("digits 1 0.4", tmp_path, [0], steps=10)
    assert 0.4 < line["wrong"] <= 1.0  # ten steps learn no wrong label by heart
    gains = [value for key, value in line.items() if key.startswith("λ")]
    assert len(gains) == len(after_first_stage.LAMS) * len(after_first_stage.RATES)
    data = after_first_stage.task("digits 1 0.4", tmp_path, [0])
    jobs = [(0.05, setting, 0) for setting in (SGD, Setting(lam=5.0, gamma=0.5))]
    _, found = untuned.train(data, "second stage", 1, jobs, [0], 10)
    sgd, attended = (found["val"] + found["test"]) / 2
    assert line["λ 5, 0.05"] == round(float(attended - sgd), 5)
