"""Methods at equally many settings: what they are, the last layer, and the choice."""

import numpy as np
import pytest

import absgd_jax
from experiments import configs
from experiments.studies import after_first_stage, equal_grids
from experiments.studies import equal_grids_report as report
from experiments.studies.equal_grids import Job

NETWORKS, WIDTH, CLASSES = 2, 5, 3
HEAD = "cifar100-st10-head"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small table and the features of two small networks."""
    path, rng = tmp_path_factory.mktemp("grids"), np.random.default_rng(0)
    labels = np.arange(60) % 3 == 0
    rows = rng.normal(size=(60, 4)) + labels[:, None]
    table = np.column_stack([rows, labels])
    np.savetxt(path / "oil-spill.csv", table, delimiter=",", fmt="%.17g")
    of = lambda n: rng.exponential(size=(NETWORKS, n, WIDTH)).astype(np.float32)
    labels = lambda n: rng.integers(0, CLASSES, (NETWORKS, n)).astype(np.int32)
    np.savez(
        path / f"{HEAD}.npz",
        **{"train": of(90), "train_labels": labels(90)},
        **{"test": of(40), "test_labels": labels(40)},
        kernel=rng.normal(size=(NETWORKS, WIDTH, CLASSES)).astype(np.float32),
        bias=rng.normal(size=(NETWORKS, CLASSES)).astype(np.float32),
        epochs=np.full(NETWORKS, 24),
    )
    return path


def short(study):
    return study._replace(run=configs.replace(study.run, {"epochs": 1}))


@pytest.mark.parametrize("name", ["oil-spill", HEAD])
def test_every_method_has_as_many_settings_over_the_same_rates(folder, name):
    study = equal_grids.study(name, folder)
    low, *others, high = study.factors
    count = 9 if name == "oil-spill" else 12
    for method, one in study.methods.items():
        settings = study.settings(method)
        rates = sorted({s.rate for s in settings})
        assert len(settings) == len(set(settings)) == count
        assert rates[-1] / rates[0] == pytest.approx(high / low, rel=0.01)
        assert len(rates) == (count if one.hyperparameter == "η" else 2 + len(others))
        assert all(s.run.optimizer.learning_rate == s.rate for s in settings)
    assert set(study.methods) <= set(report.titles())


def test_jobs_are_trained_on_their_task_and_by_their_seed(folder, monkeypatch):
    study, seen = equal_grids.study(HEAD, folder), []

    def stop(runs, tasks, *_, **__):
        seen.extend(zip((run.seed for run in runs), tasks, strict=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(equal_grids.vmapped, "VmappedRuns", stop)
    (setting, *_) = study.settings("ldam")
    with pytest.raises(KeyboardInterrupt):
        equal_grids.train(study, [Job(setting, 1, seed) for seed in (0, 3)])
    assert [seed for seed, _ in seen] == [0, 3]
    with np.load(folder / f"{HEAD}.npz") as kept:
        labels, tested = kept["train_labels"][1], kept["test_labels"][1]
    for _, task in seen:
        np.testing.assert_array_equal(task.train.labels, labels)
        np.testing.assert_array_equal(task.validation.labels, tested[::2])
        np.testing.assert_array_equal(task.test.labels, tested[1::2])
        counts = np.bincount(labels) // report.PASSES  # of images, not of passes
        np.testing.assert_array_equal(task.class_counts, counts)


def test_the_last_layer_begins_as_that_of_its_network(folder):
    study = short(equal_grids.study(HEAD, folder))
    (setting, *_) = study.settings("sgd")
    with np.load(folder / f"{HEAD}.npz") as kept:
        logits = kept["test"] @ kept["kernel"] + kept["bias"][:, None]
        right = logits.argmax(-1) == kept["test_labels"]
    jobs = [Job(setting, network, 0) for network in range(NETWORKS)]
    for line, expected in zip(equal_grids.train(study, jobs), right, strict=True):
        assert line["before"] == pytest.approx(expected[1::2].mean())


def test_training_the_last_layer_is_softmax_regression(folder):
    """The hidden layer stays the identity: one full batch of SGD by hand."""
    study = short(equal_grids.study(HEAD, folder))
    setting = study.settings("sgd")[-1]
    plain = {"batch_size": 90, "optimizer.weight_decay": 0.0}
    setting = setting._replace(run=configs.replace(setting.run, plain))
    with np.load(folder / f"{HEAD}.npz") as kept:
        x, y = kept["train"][1], np.eye(CLASSES)[kept["train_labels"][1]]
        logits = x @ kept["kernel"][1] + kept["bias"][1]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        kernel = kept["kernel"][1] - setting.rate * x.T @ (p - y) / len(x)
        bias = kept["bias"][1] - setting.rate * (p - y).mean(0)
        seen = kept["test"][1] @ kernel + bias
        right = seen.argmax(-1) == kept["test_labels"][1]
    (line,) = equal_grids.train(study, [Job(setting, 1, 0)])
    assert line["test"]["accuracy"] == pytest.approx(right[1::2].mean())


def test_jobs_end_with_all_seeds_of_the_setting_that_validation_chose(folder):
    study = equal_grids.study(HEAD, folder)
    found, settings = [], study.settings("absgd")

    def finish(jobs, score):
        for setting, *job in jobs:
            line = dict(
                zip(equal_grids.RUN, (study.name, *setting[:3], *job), strict=True)
            )
            line["validation"] = {"accuracy": score(setting)}
            line["test"] = {"accuracy": 1.0 - score(setting)}
            found.append(line)

    first = equal_grids.pending(found, study, "absgd", 5)
    assert len(first) == len(settings) * NETWORKS * report.CHOOSING
    finish(first, lambda setting: float(setting == settings[4]))
    then = equal_grids.pending(found, study, "absgd", 5)
    assert {job.setting for job in then} == {settings[4]}
    assert len(then) == NETWORKS * (5 - report.CHOOSING)
    finish(then, lambda setting: 0.0)
    assert equal_grids.pending(found, study, "absgd", 5) == []
    found[0]["validation"] = found[0]["test"] = None  # settings[0] diverged once
    chosen = settings[4].value, settings[4].rate
    assert report.best(found, study.name, "absgd") == chosen
    own = next(r for r in found if (r["value"], r["rate"]) == chosen)
    own["validation"] = None  # a setting that diverged once is not chosen
    assert report.best(found, study.name, "absgd") != chosen


def test_a_table_is_split_anew_for_each_seed_and_plain_losses_are_counted(folder):
    study = short(equal_grids.study("oil-spill", folder))
    (setting, *_) = study.settings("sgd")
    tasks = [study.task(Job(setting, 0, seed)) for seed in (0, 1)]
    assert not np.array_equal(tasks[0].test.inputs, tasks[1].test.inputs)
    (line,) = equal_grids.train(study, [Job(setting, 0, 0)])
    assert 0.0 < line["wrong"] < 1.0
    assert set(line["test"]) == set(report.OF_TABLES)


def test_what_losses_say_is_what_suggest_lam_has():
    labels = np.arange(500) % 2
    odds = np.random.default_rng(0).normal(1.0, 2.0, 500) * np.where(labels, 1, -1)
    padded = np.append(odds, [100.0, -100.0])
    found = equal_grids.losses_after(padded, labels)
    losses = np.log1p(np.exp(-odds * np.where(labels, 1, -1)))
    assert found["wrong"] == np.mean(losses > np.log(2.0))
    with pytest.warns(UserWarning, match="above log 2"):
        lams = absgd_jax.suggest_lam(losses)
    for fraction, lam in lams.items():
        own = after_first_stage.effective_fraction(losses, lam)
        assert own == pytest.approx(fraction, rel=1e-6)
    assert sorted(found["effective"].values())[::-1] == [*found["effective"].values()]


def test_the_page_has_a_part_for_the_networks_of_each_setting(folder):
    found = []
    for data, epochs in (("cifar10-st100-head", 160), (HEAD, 24)):
        study = short(equal_grids.study(HEAD, folder))
        study = study._replace(name=data)
        settings = study.settings("sgd")[:2]
        jobs = [Job(one, network, 0) for one in settings for network in range(NETWORKS)]
        lines = equal_grids.train(study, jobs)
        found += [line | {"epochs_before": epochs} for line in lines]
    page = report.last_layer(found)
    before = [r["before"] for r in found[:NETWORKS]]
    _, first, second = page.split("### ")
    assert first.startswith("CIFAR-10, step of ratio 100")
    assert second.startswith("CIFAR-100, step of ratio 10")
    assert "2 networks of 24 epochs" in second
    assert "of 160" in first
    assert f"{100 * np.mean(before):.1f} ± " in " ".join(second.split())


@pytest.mark.parametrize("name", ["oil-spill", HEAD])
def test_a_record_has_the_metrics_of_each_split(folder, name):
    study = equal_grids.study(name, folder)
    scores = {"validation": 0.5, "test": 0.7}
    measures = {**report.OF_TABLES, **report.OF_LAST_LAYER}
    event = {
        split: dict.fromkeys(measures, score) | {"recall": 10 * [score]}
        for split, score in scores.items()
    }
    job = Job(study.settings("absgd")[0], 0, 0)
    line = study.measure(job, event, lambda split: pytest.fail(f"It read {split}."))
    for split, score in scores.items():
        assert line[split] == dict.fromkeys(report.columns(name), score)


def test_the_rarest_classes_are_three_tenths_of_all(folder):
    study = equal_grids.study(HEAD, folder)
    recall = np.arange(100.0)[::-1]
    summary = {"recall": recall, "accuracy": 0.5, "calibration_error": 0.1}
    job = Job(study.settings("sgd")[0], 0, 0)
    event = {"validation": summary, "test": summary}
    line = study.measure(job, event, lambda split: pytest.fail(f"It read {split}."))
    assert line["test"]["tail"] == line["validation"]["tail"] == recall[70:].mean()
