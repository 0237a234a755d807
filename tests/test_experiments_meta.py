"""Weights learned on a meta set: the derivative, three rules, and their data."""

import contextlib
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from experiments import configs, methods, registry
from experiments.cli import main
from experiments.data import loader
from experiments.data.digits import digits
from experiments.data.task import load_task
from experiments.data.types import Examples, Files
from experiments.results import run_dir
from experiments.studies.digits import LONG_TAIL
from experiments.train import loop, sharding, steps
from experiments.train.session import Session
from tests import meta_oracle, training_problem
from tests.batches import assert_resumed_and_shared, assert_same
from tests.programs import epochs, resumed

NAMES = [name for name, info in registry.METHODS.items() if info.uses_meta_set]
CLASSES, FEATURES, HIDDEN, ROWS = 3, 4, 5, 8
CLASS_WEIGHTS = np.float32([0.5, 1.0, 2.0])


# Two networks on a few numbers.


def logits_of(params, x, present):
    """Softmax regression, or with a hidden layer under BatchNorm before it."""
    if "hidden" in params:
        x = x @ params["hidden"]
        there = present[:, None]
        mean = jnp.mean(x, 0, where=there)
        x = (x - mean) / jnp.sqrt(jnp.var(x, 0, where=there) + 1e-3)
        x = jnp.tanh(x)  # smooth, so that second derivatives have no kinks
    return x @ params["head"]


def losses_of(params, x, labels, present, class_weights=None):
    logits = logits_of(params, x, present)
    label = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=1) - label
    if class_weights is not None:
        losses = class_weights[labels] * losses
    return losses, jnp.mean(logits[0])


def draw(seed, rows=ROWS):
    """The same examples for the same seed; rows after the eighth are garbage."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    pad = [(0, rows - ROWS)]
    x = np.pad(x, [*pad, (0, 0)], constant_values=1e3)
    return x, np.pad(labels, pad), np.arange(rows) < ROWS


def start(kind, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    if kind == "logistic":
        return {"head": normal(FEATURES, CLASSES)}
    return {"hidden": normal(FEATURES, HIDDEN), "head": normal(HIDDEN, CLASSES)}


def problem_of(params, batch, clean, rate=0.05):
    _, labels, present = batch
    hyperparams = methods.step_hyperparams(configs.Run(), 1, 0)
    return methods.WeightingInput(
        params=params,
        per_example_losses=losses_of,
        examples=batch,
        present=present,
        labels=labels,
        index=jnp.zeros_like(labels),
        class_weights=jnp.asarray(CLASS_WEIGHTS),
        hyperparams=hyperparams._replace(
            step_size=np.float32(rate), learning_rate=np.float32(0.3)
        ),
        meta_loss_of=lambda w: jnp.mean(losses_of(w, *clean)[0], where=clean[2]),
    )


def the_rule(name):
    data = configs.Data(test_per_class=50, meta_per_class=1)
    return methods.rule(configs.Run(data=data, method=configs.Method(name=name)))


@functools.cache
def trained(name, by, rows=ROWS, updates=3):
    """What was found, update by update, and the parameters after the last."""
    rule = the_rule(name)
    gradient = rule.gradient if by == "rule" else meta_oracle.GRADIENTS[name]

    @jax.jit
    def step(params, state, batch, clean):
        found = gradient(problem_of(params, batch, clean), state)
        move = lambda w, g: w - 0.3 * g
        return jax.tree.map(move, params, found.gradient), found

    params, found = start("normalised"), []
    state = rule.init(params, 20, CLASSES)
    for number in range(updates):
        batch, clean = draw(number, rows), draw(100 + number, rows)
        params, one = step(params, state, batch, clean)
        state = one.state
        # At padding they may be anything.
        found.append(one._replace(losses=one.losses[:ROWS], weights=one.weights[:ROWS]))
    return params, found


@pytest.mark.parametrize("name", NAMES)
def test_rules_train_as_their_second_order_forms(name):
    ours, theirs = (trained(name, by) for by in ("rule", "oracle"))
    training_problem.same(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = np.array([one.weights for one in ours[1]])
    assert weights.std() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_padding_of_either_batch_changes_nothing(name):
    exact, padded = (trained(name, "rule", rows) for rows in (ROWS, 11))
    training_problem.same(padded, exact, rtol=1e-5, atol=1e-6)


def test_l2rw_gives_mislabelled_examples_no_weight():
    """Of two far clusters, clean examples pull against wrong labels."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 2 * ROWS)
    x = np.zeros((2 * ROWS, FEATURES), np.float32)
    x[:, 0] = 2.0 * side - 1.0 + 0.1 * rng.normal(size=2 * ROWS)
    wrong = np.arange(2 * ROWS) % 4 == 0
    labels = np.where(wrong, 1 - side, side).astype(np.int32)
    everywhere = np.ones(2 * ROWS, bool)
    batch, clean = (x, labels, everywhere), (x, side.astype(np.int32), everywhere)
    params = {"head": jnp.zeros((FEATURES, CLASSES))}
    find = lambda batch: the_rule("l2rw").gradient(problem_of(params, batch, clean), ())
    gradient = jax.jit(find)
    found = gradient(batch)
    assert (found.weights[wrong] == 0.0).all()
    assert (found.weights[~wrong] > 0.5).all()
    # Where every example is wrong, none has weight, and nothing moves.
    batch = (x, (1 - side).astype(np.int32), everywhere)
    found = gradient(batch)
    assert (found.weights == 0.0).all()
    assert (found.gradient["head"] == 0.0).all()


def test_before_the_switch_meta_has_class_weights_alone():
    problem = problem_of(start("logistic"), draw(0), draw(1))
    weights = jax.jit(lambda: the_rule("meta").before(problem, ()).weights)()
    np.testing.assert_array_equal(weights, CLASS_WEIGHTS[draw(0)[1]])


# What it costs.


def _products(jaxpr):
    """Matrix products in a program, wherever they are."""
    count = 0
    for eqn in jaxpr.eqns:
        count += eqn.primitive.name == "dot_general"
        for inside in jaxprs_in_params(eqn.params):
            count += _products(inside)
    return count


@pytest.mark.parametrize(
    ("name", "backward"), [("meta", 2), ("l2rw", 1), ("mw_net", 2)]
)
def test_an_update_costs_fewer_products_than_differentiating_the_step(name, backward):
    """Forward 2 products, backward and tangent 3: no derivative by the inputs."""
    rule, params = the_rule(name), start("normalised")
    state = rule.init(params, 20, CLASSES)

    def count(gradient):
        update = lambda w: gradient(problem_of(w, draw(0), draw(1)), state).gradient
        return _products(jax.make_jaxpr(update)(params).jaxpr)

    batch, clean = 2 + 3 * backward + 3, 2 + 3
    of_theta = {"mw_net": 4}.get(name, 0)  # V twice, and its derivative
    assert count(rule.gradient) == batch + clean + of_theta
    assert count(meta_oracle.GRADIENTS[name]) > batch + clean + of_theta


# The clean examples, and their batches.

DIGITS = configs.Data(
    validation_per_class=10, test_per_class=50, meta_per_class=3, noise_rate=0.4
)


def _rows(examples):
    return {row.tobytes() for row in examples.inputs}


def test_clean_examples_are_balanced_apart_and_clean():
    data = configs.replace(DIGITS, {"imbalance_ratio": 10.0})
    task = load_task(data, seed=2)
    parts = [task.train, task.validation, task.test, task.meta]
    assert len(set.union(*map(_rows, parts))) == sum(len(p.labels) for p in parts)
    assert np.bincount(task.meta.labels).tolist() == [3] * 10
    examples = digits()
    known = dict(zip(map(bytes, examples.inputs), examples.labels, strict=True))
    assert [known[bytes(x)] for x in task.meta.inputs] == task.meta.labels.tolist()
    assert task.class_counts.tolist() == np.bincount(task.train.labels).tolist()
    assert task.mislabelled.sum() > 0


def test_clean_examples_take_nothing_from_the_other_splits():
    with_, without = (
        load_task(configs.replace(DIGITS, {"meta_per_class": n}), seed=2)
        for n in (3, 0)
    )
    assert without.meta is None
    for name in ("validation", "test"):
        one, other = getattr(with_, name), getattr(without, name)
        np.testing.assert_array_equal(one.inputs, other.inputs)
    assert _rows(with_.train) | _rows(with_.meta) == _rows(without.train)


@pytest.mark.parametrize(("scarce_first", "fewer"), [(False, 0), (True, 3)])
def test_a_tail_has_the_counts_that_it_has_without_clean_examples(scarce_first, fewer):
    """But the class with the fewest images, the 8, where none of them is left over."""
    tail = {"imbalance": "step", "imbalance_ratio": 40.0, "scarce_first": scarce_first}
    data = configs.replace(DIGITS, {"noise_rate": 0.0, **tail})
    with_, without = (
        load_task(configs.replace(data, {"meta_per_class": n}), 2).class_counts
        for n in (3, 0)
    )
    expected = without.copy()
    expected[8] -= fewer
    assert with_.tolist() == expected.tolist()


def _clean_batches(examples, data, steps=range(9), **options):
    return list(loader.meta_batches(examples, data, 10, seed=3, steps=steps, **options))


@pytest.fixture(params=["memory", "files"])
def examples(request, tmp_path):
    """25 images, and how they are augmented."""
    images = np.random.default_rng(0).integers(0, 256, (25, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(25, dtype=np.int32)
    if request.param == "memory":
        data = configs.Data(source="cifar100", crop_padding=2, flip=True)
        return Examples(images, labels), data
    for place, image in enumerate(images):
        PIL.Image.fromarray(image).save(tmp_path / f"{place}.png")
    names = np.array([f"{place}.png" for place in labels], np.dtypes.StringDType())
    data = configs.Data(source="places_lt", image_size=8, flip=True)
    return Examples(Files(tmp_path, names), labels), data


def test_a_clean_batch_is_a_function_of_the_update_and_hosts_make_its_rows(examples):
    def batches(first=0, **options):
        return _clean_batches(*examples, range(first, 9), size=18, **options)

    # Of three hosts the last has nothing but padding.
    parts = [slice(0, 6), slice(6, 12), slice(12, 18)]
    padded = assert_resumed_and_shared(batches, (1, 3, 5), parts)
    whole = _clean_batches(*examples)
    assert len(whole) == len(padded) == 9
    for batch, other in zip(whole, padded, strict=True):
        assert_same(batch, [column[:10] for column in other[:4]])
        assert not any(column[10:].any() for column in other[:4])
    # Three updates see all of them, each time in another order and moved otherwise.
    for epoch in range(3):
        seen = np.concatenate([b.index[b.present] for b in whole[3 * epoch :][:3]])
        assert sorted(seen) == list(range(25))
        assert seen.tolist() != list(loader.order(3, epoch, 25))

    def images(epoch):
        """In the order of the examples."""
        part = whole[3 * epoch :][:3]
        inputs = np.concatenate([b.inputs[b.present] for b in part])
        return inputs[np.concatenate([b.index[b.present] for b in part]).argsort()]

    assert (images(0) != images(1)).any(axis=(1, 2, 3)).mean() > 0.3


def test_clean_batches_are_drawn_by_the_seed_of_the_run():
    method = configs.Method("l2rw", meta_batch_size=10)
    data = configs.replace(LONG_TAIL.run.data, {"meta_per_class": 2})
    task, layout, first = load_task(data, 0), sharding.layout(1), []
    for seed in range(2):
        changes = {"data": data, "method": method, "seed": seed}
        run = configs.replace(LONG_TAIL.run, changes)
        batches = loop.batches_from(loop.FIRST, run, task, layout, Session(workers=0))
        with contextlib.closing(batches):
            first.append(next(batches).meta.index)
    assert not np.array_equal(*first)


def test_a_clean_set_smaller_than_the_batch_is_the_batch(examples):
    whole, data = examples
    few = whole.take(np.arange(4))
    for batch in loader.meta_batches(few, data, 10, seed=0, steps=range(5), size=6):
        assert batch.present.tolist() == [True] * 4 + [False] * 2
        assert sorted(batch.index[:4]) == [0, 1, 2, 3]


def test_batches_beside_one_another_end_together():
    closed = []

    def numbers(name):
        with contextlib.ExitStack() as stack:
            stack.callback(closed.append, name)
            for number in range(3):
                yield loader.Batch(*(np.full(1, number) for _ in range(4)))

    both = loader.with_meta_batches(numbers("train"), numbers("clean"))
    assert [int(batch.meta.labels[0]) for batch in both] == [0, 1, 2]
    both = loader.with_meta_batches(numbers("train"), numbers("clean"))
    next(both)
    both.close()
    assert sorted(closed) == ["clean", "clean", "train", "train"]


# From end to end.

TINY = (
    "--model.widths", "4", "8", "--data.examples-per-class", "100",
    "--data.meta-per-class", "2", "--method.meta-batch-size", "15",
    "--batch-size", "32", "--epochs", "2", "--no-tensorboard",
    "--method.start-at", "0.5", "--checkpoint-seconds", "0", "--checkpoints", "30",
    "--method.name", "mw_net",
)  # fmt: skip


def test_a_run_goes_on_from_any_step(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train = ["train", "digits_label_noise", *TINY, "--out"]
    assert main([*train, str(whole)]) == 0
    shutil.copytree(whole, cut)
    kept = json.loads((whole / run_dir.CONFIG).read_text())
    per_epoch = math.ceil(sum(kept["class_counts"]) / 32)
    for checkpoint in (cut / run_dir.CHECKPOINTS).iterdir():
        if int(checkpoint.name) > per_epoch + 2:
            shutil.rmtree(checkpoint)
    assert main([*train, str(cut)]) == 0
    assert epochs(cut) == epochs(whole)
    assert resumed(cut) == [per_epoch + 2]
    first, last = epochs(whole)
    assert first["total_weight"] == first["weight_clean"] == 1.0
    assert last["effective_sample_size"] < 0.9999


def test_the_meta_loss_of_a_step():
    """Of the network in training mode on the clean batch alone, without weights."""
    run = configs.replace(
        LONG_TAIL.run,
        {
            "data.meta_per_class": 1,
            "model.widths": (4,),
            "method": configs.Method(name="l2rw"),
            "loss.class_weights": True,
            "loss.name": "truncated",  # and nothing is dropped
        },
    )
    graph, layout = steps._graph(run), sharding.layout(1)
    network = steps.init_network(run, 0)
    state = steps.program(run, layout).init(network, 0, 20)
    state = state._replace(kept=jnp.zeros(20, bool))
    rng = np.random.default_rng(0)

    def batch(present, rows):
        index = np.arange(rows, dtype=np.int32) % present
        images = np.float32(rng.random((rows, 8, 8, 1)))
        labels = (3 * index % 10).astype(np.int32)
        return loader.Batch(images, labels, np.arange(rows) < present, index)

    clean = batch(6, 9)
    whole = batch(8, 8)
    given = steps.DatasetStats(jnp.ones(10), jnp.full(10, 7.0), jnp.zeros(20, bool))
    hyperparams = methods.step_hyperparams(run, 10, 0)
    step = jax.jit(functools.partial(steps.train_step, graph, run))
    after, seen = step(state, whole._replace(meta=clean), given, hyperparams)

    network.train()
    passed = nnx.jit(lambda network, inputs: network(inputs))
    logits = passed(network, clean.inputs[:6])
    p = jax.nn.softmax(logits)[np.arange(6), clean.labels[:6]]
    q = run.loss.q
    expected = jnp.mean((1.0 - p**q) / q)
    np.testing.assert_allclose(seen.tilted_loss, expected, rtol=1e-5)
    # Its statistics go nowhere.
    network = steps.init_network(run, 0)
    network.train()
    passed(network, whole.inputs)
    found = after.statistics["blocks"][0]["norm"]["mean"]
    np.testing.assert_allclose(found[...], network.blocks[0].norm.mean[...], rtol=1e-5)
