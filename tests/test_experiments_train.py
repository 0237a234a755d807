"""The command line from end to end, on the embedded digits."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments import configs
from experiments.cli import main
from experiments.data.task import load_task
from experiments.results import run_dir, run_log
from experiments.studies.digits import LONG_TAIL
from experiments.train import checkpoint, evaluation, loop, runs, sharding
from experiments.train.session import Session
from tests.programs import epochs

# A network of two layers, and some 20 updates: compiling is most of what it costs. With
# the 400 examples of `test_experiments_commands.py`, and hence its programs.
TINY = (
    "--model.widths", "4", "8", "--data.examples-per-class", "70",
    "--data.test-per-class", "10", "--batch-size", "32", "--epochs", "2",
    "--method.start-at", "0.5", "--no-tensorboard",
)  # fmt: skip


DIGITS = ("train", "digits_label_noise")
L2RW = (
    *DIGITS, "--data.examples-per-class", "100", "--method.name", "l2rw",
    "--data.meta-per-class",
)  # fmt: skip


LONG_TAILED = ("train", "digits_long_tail")
COMPARE = ("compare", "digits_long_tail")
SWEEP = ("sweep", "digits_long_tail")
NOT_HELD_OUT = "--data.validation-per-class=0"
OWN = ("train", "own_table", "--data.path", "x")
OWN_LAM = "--method.name sgd; a λ of your own needs --method.rho None"
PYPROJECT = str(pathlib.Path(__file__).parents[1] / "pyproject.toml")
MANY = (*DIGITS, "--data.augment-on", "device", "--steps-per-dispatch", "4")
BASE = ("--loss.class-weights-in", "base")
META = ("--method.name", "meta", "--data.meta-per-class", "2")
COSINE = ("--optimizer.decay", "cosine")
RANGE = ("--loss.name", "range")


def _train(out, *arguments):
    return main([*DIGITS, *TINY, "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    assert _train(out, "--method.lam", "-1") == 0
    return out


@pytest.mark.parametrize(
    ("soon", "kept", "saved"),
    [(0.0, 2, [1, 2, 3, 4]), (1e9, 2, [3, 4]), (1e9, 3, [2, 3, 4])],
)
def test_short_epochs_but_the_last_ones_go_without_a_checkpoint(
    soon, kept, saved, tmp_path, monkeypatch
):
    """As many of the last ones have one as are kept, so that one can be damaged."""
    epochs, save = [], checkpoint.Checkpoints.save

    def counted(self, step, state, metadata):
        epochs.append(metadata["position"]["epoch"])
        save(self, step, state, metadata)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", counted)
    monkeypatch.setattr(runs, "SOON", soon)
    assert _train(tmp_path, "--epochs", "4", "--checkpoints", str(kept)) == 0
    assert epochs == saved


def test_config_and_records_say_what_was_trained_and_how(trained):
    config = json.loads((trained / run_dir.CONFIG).read_text())
    assert config["preset"] == "digits_label_noise"
    assert config["run"]["method"]["lam"] == -1.0
    assert sum(config["class_counts"]) == 400  # 70 a class, less 30 held out
    assert {"jax", "flax", "optax", "python"} <= config["versions"].keys()
    events = run_log.events(trained / run_dir.RECORDS)[0]
    assert [event["event"] for event in events] == ["epoch", "epoch", "finished"]
    first, last, finished = events
    assert first["lam"] == "inf"
    assert first["weight_clean"] == 1.0
    assert last["lam"] == -1.0
    assert last["step"] == finished["step"] == 26
    assert last["loss"] < first["loss"]
    assert 0.0 < last["effective_sample_size"] <= 1.0
    assert 0.0 <= last["waited"] <= last["seconds"]
    assert last["validation"]["examples"] == 200
    assert np.sum(last["test"]["confusion"]) == last["test"]["examples"] == 100


def test_evaluation_gives_the_numbers_of_the_last_epoch(trained, shell):
    printed = shell.printed("evaluate", trained)
    written = json.loads((trained / run_dir.EVALUATION).read_text())
    last = epochs(trained)[-1]
    assert written["step"] == last["step"]
    for split in ("validation", "test"):
        assert written[split] == last[split]
    assert f"accuracy {last['test']['accuracy']:.4f}" in printed


def test_a_report_is_made(trained, shell):
    printed = shell.printed("report", trained, "--features")
    text = (trained / "report.md").read_text()
    assert text in printed
    accuracy = 100 * epochs(trained)[-1]["test"]["accuracy"]
    assert f"{accuracy:.1f}" in text
    for image in trained.glob("*.png"):
        assert image.name in text
    assert {"curves.png", "confusion.png", "weights.png"} <= {
        image.name for image in trained.glob("*.png")
    }


def test_features_of_a_subsample_are_those_of_its_examples(trained):
    found = evaluation.features(trained, splits=("train", "test"), examples=40).splits
    whole = evaluation.features(trained)
    assert found.keys() == {"train", "test"}
    for split, (features, labels) in found.items():
        everything, of_each = whole.splits[split]
        apart = np.linalg.norm(features[:, None] - everything, axis=-1)
        nearest = apart.argmin(axis=1)
        assert len(set(nearest)) == len(labels) == 40
        np.testing.assert_allclose(features, everything[nearest], atol=1e-5)
        np.testing.assert_array_equal(labels, of_each[nearest])


def test_another_network_is_no_first_stage(trained, tmp_path, shell):
    train = (*DIGITS, *TINY, "--out", tmp_path / "run", "--start-from", trained)
    status, _, said = shell(*train, "--model.widths", "4", "4")
    assert status == 2
    assert "trained another network" in said
    assert "model.widths: [4, 8] there, [4, 4] here" in said
    assert not (tmp_path / "run" / run_dir.RECORDS).exists()


def test_published_weights_are_started_from(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "weights.safetensors"
    sizes = {"conv1": 1, "layer1.0.conv1": 4, "layer1.0.conv2": 4}
    weights = {
        f"{name}.weight": rng.normal(size=(4, inputs, 3, 3), scale=0.3)
        for name, inputs in sizes.items()
    }
    for norm in ("bn1", "layer1.0.bn1", "layer1.0.bn2"):
        for what in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{what}"] = rng.uniform(0.5, 1.5, 4)
    weights |= {"fc.weight": rng.normal(size=(10, 4)), "fc.bias": rng.normal(size=10)}
    save_file({name: np.float32(value) for name, value in weights.items()}, path)
    model = configs.Model("resnet18", widths=(4,), blocks=(1,), pretrained=path)
    run = configs.replace(LONG_TAIL.run, {"model": model})
    task, layout = load_task(run.data, 0), sharding.layout(1)
    network = runs._network(run, task, layout, Session())
    params = loop.begin(run, task, layout, network).state.params
    found = params["blocks"][0]["second"]["convolution"]["kernel"][...]
    expected = weights["layer1.0.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found, np.float32(expected))
    head = params["head"]["kernel"][...]
    np.testing.assert_array_equal(head, np.float32(weights["fc.weight"].T))


def test_published_weights_that_do_not_fit_are_refused(tmp_path, shell):
    path = tmp_path / "weights.safetensors"
    save_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, path)
    arguments = ("--out", tmp_path / "run", "--model.pretrained", path)
    shell.refused(2, "pretrained", *DIGITS, *TINY, *arguments)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["trian"], 2, "Did you mean 'train'?"),
        (["train", "cifar10_lt10O"], 2, "Did you mean cifar10_lt10"),
        (["train", "imagenet_lt"], 2, "finished run of imagenet_lt_stage1"),
        (["list", "nothing_like_it"], 2, "nothing_like_it"),
        (["evaluate", "no/such/run"], 2, "no/such/run"),
        (["report", "no/such/run"], 2, "no/such/run"),
        (["train", "cifar10_lt100"], 3, "--data-dir"),
        (["train", "imdb", "--data-dir", "no/such/data"], 3, "no/such/data"),
        ([*DIGITS, "--devices", "99"], 2, "got 99"),
        ([*L2RW, "30"], 2, "too few to hold out 100"),
        ([*L2RW, "2", "--parallel", "pmap"], 2, "L2RW runs under --parallel jit"),
        (["train", "--config"], 2, "--config takes the config.json of a run"),
        (["train", "--config", "no/such.json"], 2, "no/such.json cannot be read: No"),
        (["train", "--config", PYPROJECT], 2, "is not the config of a run"),
        ([*LONG_TAILED, "--config", "a.json"], 2, "a preset or --config, not both"),
        (["reproduce", "--settings", "Nonsense"], 2, "Nonsense"),
        (["reproduce", "--rows", "Nonsense"], 2, "There is no row 'Nonsense': there a"),
        ([*COMPARE, "--methods", "absgd,abgsd"], 2, "'abgsd'"),
        ([*OWN, "--method.lam=inf"], 2, OWN_LAM),
        ([*OWN, "--method.lam", "inf"], 2, OWN_LAM),
        ([*OWN, "--lam", "inf"], 2, OWN_LAM),
        ([*OWN, "--method.name", "term"], 2, "TERM with --method.lam inf weights all"),
        (["sweep", *OWN[1:], "--method=eg"], 2, "EG with --method.lam inf weights all"),
        ([*DIGITS, "--gamma", "0.1"], 2, "--method.gamma"),
        ([*DIGITS, "--momentum", "0.1"], 2, "--optimizer.mom"),
        ([*MANY, "--data.augment-on", "host"], 2, "--data.augment-on device"),
        ([*MANY, *L2RW[2:], "2"], 2, "L2RW loads its"),
        ([*MANY, "--parallel", "pmap"], 2, "one process, under --parallel jit, got 4"),
        ([*MANY, "--steps-per-dispatch", "0"], 2, "must be at least 1, got 0"),
        ([*SWEEP, "--lams", "1,x"], 2, "lams must be numbers with commas between them"),
        ([*SWEEP, "--lams", "1,1.0"], 2, "lams must differ, got '1,1.0'"),
        ([*SWEEP, "--gammas", "2"], 2, "gamma must lie in (0, 1], got 2.0"),
        ([*SWEEP, "--vmapped", "0"], 2, "vmapped must be at least 1, got 0"),
        ([*SWEEP, "--devices", "2"], 2, "one process, on one device"),
        ([*SWEEP, NOT_HELD_OUT], 2, "give --data.validation-per-class"),
    ],
)
def test_an_impossible_command_exits_with_the_reason_and_writes_nothing(
    arguments, status, said, shell, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shell.refused(status, said, *arguments)
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method.lamb", "1"], "--method.lam"),
        (["--method.route", "dense"], "BatchNorm"),
        ([*BASE, "--method.name", "eg"], "Base weights are of SGD, ABSGD"),
        ([*BASE, "--method.route", "value"], "Base weights are of SGD, ABSGD"),
        ([*BASE, "--loss.class-weights-norm", "weights"], "Base weights are of SGD"),
        (["--method.name", "meta"], "set data.meta_per_class to at least 1, got 0"),
        (["--method.name", "l2rw"], "set data.meta_per_class to at least 1, got 0"),
        (["--method.name", "mw_net"], "set data.meta_per_class to at least 1, got 0"),
        ([*META, "--loss.class-weights-norm", "weights"], "'examples', got 'weights'"),
        ([*META, "--method.meta-batch-size", "1"], "meta_batch_size must be at least"),
        (["--data.meta-per-class", "-1"], "must not be negative, got -1"),
        (["--trainable", "scale"], "set model.head to 'scaled', got 'linear'"),
        (["--loss.name", "oltr"], "set model.head to 'memory', got 'linear'"),
        ([*RANGE, "--method.route", "value"], "take the pullback route, got 'value'"),
        (
            [*RANGE, "--loss.range-intra", "-1"],
            "range_intra must be finite and not neg",
        ),
        (
            ["--loss.name", "generalized", "--loss.q", "0"],
            "q must lie in (0, 1], got 0",
        ),
        (
            [*COSINE, "--optimizer.drop-at", "0.7"],
            "drop_at is for decay 'drops', got (",
        ),
        (
            ["--loss.q", "0.5"],
            "--loss.q would change nothing: it needs --loss.name generalized or tru",
        ),
        (["--method.name", "sgd", "--method.lam", "1"], "recover, got sgd"),
        (["--method.cvar-alpha", "0.1"], "it needs --method.name cvar, got absgd"),
        (["--method.lam=-inf"], "is plain SGD, which is inf or --method.name sgd"),
        (["--data.sampling-beta", "1"], "sampling_beta must lie in [0, 1), got 1.0"),
        (["--distributed", "--parallel", "pmap"], "pmap runs on one host"),
        (["--epochs", "many"], "many"),
    ],
)
def test_a_bad_field_is_refused_with_a_suggestion(arguments, said, shell):
    shell.refused(2, said, *DIGITS, *arguments)
