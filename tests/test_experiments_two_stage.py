"""Second stages: other heads, other samples, other classifiers on the same features."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from experiments import configs, models
from experiments.cli import main
from experiments.data.task import load_task
from experiments.models import heads, posthoc_classifiers
from experiments.models.attention import Attention
from experiments.results import metrics, run_dir, run_log
from experiments.train import evaluation, runs, sharding, steps
from experiments.train.session import Session
from tests.training_problem import abstract

TINY = (
    "--model.widths", "4", "8", "--data.examples-per-class", "100",
    "--data.imbalance-ratio", "5", "--batch-size", "32", "--epochs", "2",
    "--no-tensorboard", "--method.name", "sgd", "--eval-every", "2",
)  # fmt: skip
SECOND = ("--data.sampling", "class_aware", "--optimizer.decay", "cosine")


def _train(out, *arguments):
    status = main(["train", "digits_long_tail", *TINY, "--out", str(out), *arguments])
    assert status == 0
    return out


def _last(out):
    events = run_log.events(out / run_dir.RECORDS)[0]
    return [event for event in events if event["event"] == "epoch"][-1]


def _state(out):
    return evaluation.restore(out, run_dir.load(out), sharding.layout(1))[1]


def _flat(*parts):
    return {
        path: np.asarray(value[...])
        for part in parts
        for path, value in nnx.to_flat_state(part)
    }


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def seen(stage_one):
    return evaluation.features(stage_one)


# cRT and LWS.


def test_crt_trains_a_new_head_on_the_old_features(stage_one, tmp_path):
    copied, out = shutil.copytree(stage_one, tmp_path / "first"), tmp_path / "second"
    head = ("--trainable", "head", "--new-head", "--start-from", str(copied))
    _train(out, *head, *SECOND)
    before, after = _state(stage_one), _state(out)
    first, body = _flat(before.params), _flat(after.frozen)
    assert set(first) - set(body) == {("head", "kernel"), ("head", "bias")}
    for path, value in body.items():
        np.testing.assert_array_equal(value, first[path])
    run = run_dir.load(out).run
    drawn = _flat(nnx.state(steps.init_network(run, 0), nnx.Param))
    session = Session(workers=0)
    network = runs._network(run, load_task(run.data, 0), sharding.layout(1), session)
    kernels = network.head.kernel[...], drawn["head", "kernel"]
    assert abs(np.corrcoef(*map(np.ravel, kernels))[0, 1]) < 0.2  # not stage one's draw
    for path, value in _flat(after.params).items():
        assert np.all(value != first[path])
        assert np.any(value != drawn[path])
    for path, value in _flat(after.statistics).items():
        assert np.any(value != _flat(before.statistics)[path])
    assert np.isfinite(_last(out)["loss"])

    shutil.rmtree(copied)  # which who goes on has no need of
    _train(out, *head, *SECOND)


def test_a_first_stage_is_found_from_any_directory(
    stage_one, tmp_path, monkeypatch, shell
):
    whole = tmp_path / "a" / "first"
    shutil.copytree(stage_one, whole)
    train = ("train", "digits_long_tail", *TINY, "--start-from")
    monkeypatch.chdir(tmp_path / "a")
    shell.printed(*train, "first", "--out", "second")
    assert run_dir.load(tmp_path / "a" / "second").run.start_from == whole
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    given = (*train, "../a/first", "--out", "../a/second")
    shell.refused(0, "../a/second is finished", *given)
    # It stops before its first checkpoint.
    shutil.rmtree(tmp_path / "a" / "second" / run_dir.CHECKPOINTS)
    (tmp_path / "a" / "second" / run_dir.RECORDS).unlink()
    shell.printed("resume", "../a/second")
    # Both are moved, as a comparison is.
    moved = tmp_path / "c"
    (tmp_path / "a").rename(moved)
    assert run_dir.load(moved / "second").run.start_from == moved / "first"
    given = (*train, moved / "first", "--out", moved / "second")
    shell.refused(0, "second is finished", *given)


def test_lws_learns_the_factors_alone(stage_one, tmp_path):
    scale = ("--trainable", "scale", "--model.head", "scaled")
    out = _train(tmp_path, "--start-from", str(stage_one), *scale, *SECOND)
    first, state = _flat(_state(stage_one).params), _state(out)
    learned, rest = _flat(state.params), _flat(state.frozen)
    assert set(learned) == {("head", "scale")}
    assert learned[("head", "scale")].shape == (10,)
    assert np.all(learned[("head", "scale")] != 1.0)
    assert set(rest) == set(first)
    for path, value in rest.items():
        np.testing.assert_array_equal(value, first[path])


def test_factors_multiply_logits_and_start_as_ones():
    scaled = heads.head("scaled", 4, 3, rngs=nnx.Rngs(0))
    linear = heads.head("linear", 4, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (5, 4))
    np.testing.assert_array_equal(scaled(x), linear(x))
    scaled.scale[...] = jnp.array([2.0, -1.0, 0.5])
    np.testing.assert_allclose(scaled(x), linear(x) * jnp.array([2.0, -1.0, 0.5]))


# OLTR.


@pytest.mark.parametrize("where", ["on a centroid", "zero", "all zero"])
def test_the_memory_has_finite_gradients(where):
    graph, state = nnx.split(heads.head("memory", 3, 4, rngs=nnx.Rngs(0)))
    if where != "all zero":
        state["centroids"][...] = jax.random.normal(jax.random.key(1), (4, 3))
    v = jnp.zeros((2, 3))
    if where == "on a centroid":
        v = state["centroids"][...][:2]
    total = lambda state, v: jnp.sum(jnp.sin(nnx.merge(graph, state)(v)))
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(state, v)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_attention_is_the_published_one():
    """Written out place by place; and at the start it changes nothing."""
    attention = Attention(2, 3, 4, rngs=nnx.Rngs(0))
    maps = np.random.default_rng(0).normal(size=(5, 2, 3, 4))
    attend = nnx.jit(lambda attention: attention(jnp.float32(maps)))
    np.testing.assert_array_equal(attend(attention), np.float32(maps))

    mask = np.random.default_rng(1).normal(size=(2, 4))
    attention.mask.kernel[...] = jnp.float32(mask)
    layers = (attention.g, attention.theta, attention.phi, attention.spatial)

    def linear(layer):
        kernel, bias = np.float64(layer.kernel[...]), np.float64(layer.bias[...])
        return lambda x: x @ kernel + bias

    g, theta, phi, spatial = map(linear, layers)
    expected = np.empty_like(maps)
    for image, found in zip(maps, expected, strict=True):
        x = image.reshape(6, 4)
        weight = special.softmax(spatial(x.reshape(-1)))
        for i in range(6):
            alike = special.softmax(
                np.array([theta(x[i]) @ phi(x[j]) for j in range(6)])
            )
            looked = sum(alike[j] * g(x[j]) for j in range(6))
            found.reshape(6, 4)[i] = x[i] + weight[i] * (looked @ mask)
    np.testing.assert_allclose(attend(attention), expected, rtol=1e-4, atol=1e-5)


def _abstract(name, head, data=configs.Data(source="cifar10"), **more):  # noqa: B008
    return abstract(configs.Model(name, head=head, **more), data)


@pytest.mark.parametrize(
    ("name", "more", "maps"),
    [
        ("convnet", {"widths": (4, 6)}, (16, 16, 6)),
        ("resnet20", {"widths": (4, 7), "blocks": (1, 1)}, (16, 16, 7)),
        ("resnet18", {"widths": (4, 6), "blocks": (1, 1)}, (16, 16, 6)),
        ("resnet50", {"widths": (2, 3), "blocks": (1, 1)}, (4, 4, 12)),
    ],
)
def test_a_memory_brings_attention_to_the_last_maps(name, more, maps):
    network = _abstract(name, "memory", **more)
    height, width, channels = maps
    assert network.attention.spatial.kernel.shape == (
        height * width * channels,
        height * width,
    )
    assert network.head.centroids.shape == (10, channels)
    assert _abstract(name, "linear", **more).attention is None
    _, trained, frozen, _ = nnx.split(
        network, models.trained("head", network), nnx.Param, ...
    )
    assert set(trained) == {"head", "attention"}
    assert "blocks" in frozen
    _, trained, _, _ = nnx.split(
        network, models.trained("last_block", network), nnx.Param, ...
    )
    assert set(trained) == {"head", "attention", "blocks"}


def test_a_memory_needs_maps():
    with pytest.raises(configs.BadConfiguration, match=r"sce_cnn has no maps"):
        _abstract("sce_cnn", "memory")
    imdb = configs.Data(source="imdb", vocabulary=20)
    with pytest.raises(configs.BadConfiguration, match=r"bilstm has no maps"):
        _abstract("bilstm", "memory", imdb)


def test_oltr_starts_from_what_stage_one_knows_and_learns_on(stage_one, seen, tmp_path):
    oltr = ("--model.head", "memory", "--loss.name", "oltr")
    slow = ("--optimizer.learning-rate", "0.01")
    out = _train(tmp_path, "--start-from", str(stage_one), *oltr, *slow, *SECOND)
    run = run_dir.load(out).run
    task, layout = load_task(run.data, run.seed), sharding.layout(1)
    session = Session(workers=0)
    network = runs._network(run, task, layout, session)
    # Attention changes nothing yet, so features and their means are those of before.
    features, labels = seen.splits["train"]
    means = [features[labels == label].mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(network.head.centroids[...], means, atol=1e-5)
    np.testing.assert_array_equal(network.head.recalls.kernel[...], seen.kernel)
    np.testing.assert_array_equal(network.head.recalls.bias[...], seen.bias)
    program = steps.program(run, layout)
    start = program.init(network, run.seed, len(labels))
    found = evaluation.outputs_of("features", start, task.test, run, layout)
    np.testing.assert_allclose(found, seen.splits["test"][0], rtol=1e-5, atol=1e-6)

    before, after = _flat(start.params), _flat(_state(out).params)
    assert before.keys() == after.keys()
    moved = {path for path in after if np.any(after[path] != before[path])}
    # With W = 0 the rest of the attention has no gradient in the first step alone.
    assert moved == set(after)
    assert np.isfinite(_last(out)["loss"])

    drawn = configs.replace(run, {"new_head": True})
    fresh = runs._network(drawn, task, layout, session)
    assert not np.any(fresh.head.centroids[...])
    again = configs.replace(run, {"start_from": out})  # with a memory of its own
    other = _flat(nnx.state(runs._network(again, task, layout, session), nnx.Param))
    for path, value in other.items():
        np.testing.assert_array_equal(value, after[path])


# Range loss trains.


def test_range_loss_narrows_classes(stage_one, seen, tmp_path):
    def spread(splits):
        features, labels = splits["train"]
        own = [features[labels == label].std(axis=0).mean() for label in range(10)]
        return np.mean(own) / features.std(axis=0).mean()

    strong = ("--loss.name", "range", "--loss.range-intra", "1", "--epochs", "4")
    out = _train(tmp_path, "--start-from", str(stage_one), *strong)
    assert np.isfinite(_last(out)["loss"])
    assert spread(evaluation.features(out).splits) < spread(seen.splits)


# Classifiers that need no training.


def test_features_make_the_logits_of_the_network(stage_one, seen):
    last = _last(stage_one)
    assert set(seen.splits) == {"train", "validation", "test"}
    assert len(seen.splits["train"][1]) == sum(run_dir.load(stage_one).class_counts)
    for split in ("validation", "test"):
        features, labels = seen.splits[split]
        logits = features @ seen.kernel + seen.bias
        assert np.mean(logits.argmax(axis=1) == labels) == last[split]["accuracy"]


@pytest.mark.parametrize("transform", ["plain", "l2", "centred"])
def test_ncm_is_the_nearest_of_the_means(transform, seen):
    features, labels = (np.asarray(array) for array in seen.splits["train"])
    kept = labels != 4  # a class without an example
    features, labels = features[kept], labels[kept]
    classify = posthoc_classifiers.nearest_class_mean(features, labels, 10, transform)
    centre = features.mean(axis=0, dtype=np.float64)

    def transformed(x):
        x = np.float64(x)
        if transform == "centred":
            x = x - centre
        if transform != "plain":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x

    means = np.full((10, features.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = transformed(features)[labels == label].mean(axis=0)
    queries, answers = seen.splits["test"]
    expected = -np.sum((transformed(queries)[:, None] - means) ** 2, axis=2)
    expected[:, 4] = -np.inf
    found = classify(jnp.asarray(queries))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    there = np.ones(len(answers), bool)
    counts = jax.jit(metrics.count)(found, answers, there)
    summary = metrics.summary(counts, np.bincount(labels, minlength=10))
    assert summary["recall"][4] == 0.0
    assert summary["accuracy"] == np.mean(expected.argmax(axis=1) == answers)
    assert not np.any(np.isnan(classify(np.zeros((1, features.shape[1])))))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_norms_are_divided_out(tau, seen):
    classify = posthoc_classifiers.tau_normalised(jnp.asarray(seen.kernel), tau)
    before = np.linalg.norm(np.float64(seen.kernel), axis=0)
    after = np.linalg.norm(classify(np.eye(len(seen.kernel))), axis=0)
    np.testing.assert_allclose(after, before ** (1.0 - tau), rtol=1e-5)
    features, _ = seen.splits["test"]
    expected = np.float64(features) @ np.float64(seen.kernel) / before**tau
    np.testing.assert_allclose(classify(features), expected, rtol=1e-4, atol=1e-5)
