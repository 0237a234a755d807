"""Losses and gradients of the published programs, on the same numbers.

`published_values.npz` holds inputs drawn at random and, in float64, what the programs
of the original authors compute from them:

* class-balanced focal loss at focusing 0.5, 1 and 2, LDAM with class-balanced weights,
  and class-balanced cross-entropy: `kaidic/LDAM-DRW`; the focal loss is that of
  `qiqi-helloworld/ABSGD` as well;
* symmetric cross-entropy of each example, and the gradient of the sum:
  `qiqi-helloworld/ABSGD` (label noise), after `HanxunH/SCELoss-Reproduce`;
* logits, loss and gradients of OLTR's head: `zhmiao/OpenLongTailRecognition-OLTR`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configs, fields, methods, presets
from experiments.data.loader import Batch
from experiments.models import heads
from experiments.studies import method_grid
from experiments.train import sharding, steps
from experiments.train.losses import per_example_losses

PUBLISHED = np.load(pathlib.Path(__file__).parent / "published_values.npz")
LABELS = PUBLISHED["labels"]


def _relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# Class weights, and what the mean is divided by.


class _Table(nnx.Module):
    """A network whose kernel has a row of logits for each example."""

    blocks = ()

    def __init__(self, logits):
        self.head = nnx.Linear(*logits.shape, use_bias=False, rngs=nnx.Rngs(0))
        self.head.kernel[...] = jnp.float32(logits)

    def features(self, inputs, present, keys):
        return inputs


@functools.cache
def _step(run):
    """The compiled step of a run on a table of logits."""
    graph, *_ = nnx.split(_Table(PUBLISHED["logits"]), nnx.Param, ...)
    return jax.jit(functools.partial(steps.train_step, graph, run))


def _gradient_of_a_step(run, logits, labels):
    """The gradient of the logits that the training step of a run goes down."""
    run = configs.replace(
        run,
        {
            "data": configs.Data(source="cifar10"),
            "model": configs.Model(head=run.model.head),
            "loss.class_weights_from": 0.0,
            "optimizer": configs.Optimizer(momentum=0.9),
        },
    )
    batch = len(labels)
    hyperparams = methods.step_hyperparams(run, 1, 0)
    program = steps.program(fields.compiled(run), sharding.layout(1))
    state = program.init(_Table(logits), 0, batch)
    given = steps.DatasetStats(
        jnp.float32(PUBLISHED["class_counts"]),
        jnp.float32(PUBLISHED["class_weights"]),
        jnp.zeros(batch, bool),
    )
    of_batch = Batch(
        jnp.eye(batch), jnp.int32(labels), jnp.ones(batch, bool), jnp.arange(batch)
    )
    after, _ = _step(fields.compiled(run))(state, of_batch, given, hyperparams)
    (trace,) = jax.tree.leaves(after.optimizer.descent)  # v = 0.9 · 0 + G
    return trace


def _run_of(name, method):
    preset = presets.get(name)
    changes = {variant.method: variant.changes for variant in preset.variants}
    return configs.replace(preset.run, {} if method is None else changes[method])


def test_every_row_of_sgd_with_class_balanced_focal_loss_is_a_plain_mean():
    rows = [
        (preset.name, method)
        for preset in presets.every()
        for method in (None, *(variant.method for variant in preset.variants))
        if preset.name.endswith("_drw_focal" if method is None else "_cb_focal")
        and (method is None or method.startswith("SGD"))
    ]
    assert len(rows) == 8 + 8 + 1 + 2
    for name, method in rows:
        loss = _run_of(name, method).loss
        assert (loss.name, loss.class_weights) == ("focal", True), name
        assert loss.class_weights_norm == "examples", name


@pytest.mark.parametrize("name", ["cb_focal", "drw_focal"])
def test_compared_class_balanced_focal_losses_go_down_the_published_gradient(name):
    base = presets.get("cifar10_lt100").run
    method = method_grid.every(base)[name]
    for run in method.runs(method_grid.plain(base)):
        expected = PUBLISHED[f"cb_focal_{run.loss.focusing:g}_gradient"]
        found = _gradient_of_a_step(run, PUBLISHED["logits"], LABELS)
        assert _relative(found, expected) < 1e-6


CB_FOCAL = ("cifar10_lt100_cb_focal", "SGD (CB-Focal)")


@pytest.mark.parametrize(
    ("preset", "row", "changes", "logits", "published"),
    [
        *(
            (*CB_FOCAL, {"loss.focusing": focusing}, "logits", f"cb_focal_{focusing:g}")
            for focusing in (0.5, 1.0, 2.0)
        ),
        ("cifar10_lt100_cb_ce", "SGD (CB-CE)", {}, "logits", "cb_ce"),
        ("cifar10_lt100_drw_ce", None, {}, "logits", "cb_ce"),
        ("imdb_cb_ce", "SGD (CB-CE)", {}, "logits", "cb_ce"),
        ("covid_lt100_cb_ce", "SGD (DRW-CE)", {}, "logits", "cb_ce"),
        ("cifar10_lt100_cb_ldam", "SGD (CB-LDAM)", {}, "ldam_cosines", "ldam_drw"),
    ],
)
def test_weighted_losses_go_down_the_published_gradient(
    preset, row, changes, logits, published
):
    """Cross-entropy and LDAM are divided by the class weights of the batch."""
    run = configs.replace(_run_of(preset, row), changes)
    found = _gradient_of_a_step(run, PUBLISHED[logits], LABELS)
    assert _relative(found, PUBLISHED[f"{published}_gradient"]) < 1e-6


# Symmetric cross-entropy.


def _symmetric(loss, logits):
    return per_example_losses(
        loss, logits, LABELS, class_counts=jnp.ones(10), class_weights=jnp.ones(10)
    )


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (6.0, 0.1)])
def test_symmetric_cross_entropy_without_clipping_is_the_published_one(alpha, beta):
    """At labels that the logits all but rule out."""
    name = f"sce_{alpha:g}_{beta:g}"
    expected = PUBLISHED[f"{name}_losses"]
    # The published code takes no probability of another class for less than 1e-7.
    floor = 9 * 1e-7 * np.log(1e4) * beta
    loss = presets.get("cifar10_sym20_sce_author_code").run.loss
    loss = configs.replace(loss, {"alpha": alpha, "beta": beta})
    total = lambda logits: jnp.sum(_symmetric(loss, logits))
    with jax.enable_x64(True):
        found = _symmetric(loss, PUBLISHED["sce_logits"])
        gradient = jax.grad(total)(PUBLISHED["sce_logits"])
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1.001 * floor)
        assert _relative(gradient, PUBLISHED[f"{name}_gradient"]) < 1e-6
    clipped = configs.Loss("symmetric", alpha=alpha, beta=beta)
    assert _relative(_symmetric(clipped, PUBLISHED["sce_logits"]), expected) > 0.2


def test_symmetric_cross_entropy_is_clipped_but_as_the_authors_code():
    unclipped = set()
    for preset in presets.every():
        own = [variant for variant in preset.variants if not variant.of]
        for run in (preset.run, *(configs.replace(preset.run, v.changes) for v in own)):
            clips = "author_code" not in preset.name
            if run.loss.name == "symmetric":
                assert run.loss.smallest_probability == (1e-7 if clips else 0.0)
                unclipped |= set() if clips else {preset.name}
    assert len(unclipped) == 8 + 1


# OLTR.


def _oltr_loss(centroids, features):
    """Mean loss through the head, which reads its centroids from the same array."""
    v, m, labels = features, centroids, PUBLISHED["oltr_labels"]
    head = heads.head("memory", *m.shape[::-1], rngs=nnx.Rngs(0))
    head.centroids = nnx.Param(m)
    head.kernel = nnx.Param(PUBLISHED["oltr_cosine_kernel"])
    layers = (head.recalls, "hallucinator"), (head.selects, "selector")
    for layer, name in layers:
        layer.kernel = nnx.Param(PUBLISHED[f"oltr_{name}_kernel"])
        layer.bias = nnx.Param(PUBLISHED[f"oltr_{name}_bias"])
    logits = head(v)
    losses = per_example_losses(
        configs.Loss("oltr"),
        logits,
        labels,
        class_counts=jnp.ones(len(m)),
        class_weights=jnp.ones(len(m)),
        features=v,
        centroids=head.centroids[...],
    )
    return jnp.mean(losses), logits


def test_the_head_of_oltr_has_the_published_logits_loss_and_gradients():
    arrays = PUBLISHED["oltr_centroids"], PUBLISHED["oltr_features"]
    with jax.enable_x64(True):
        both = jax.value_and_grad(_oltr_loss, argnums=(0, 1), has_aux=True)
        (loss, logits), (of_centroids, of_features) = jax.jit(both)(*arrays)
        assert _relative(logits, PUBLISHED["oltr_logits"]) < 1e-12
        assert loss == pytest.approx(float(PUBLISHED["oltr_loss"]), rel=1e-12)
        assert _relative(of_features, PUBLISHED["oltr_feature_gradient"]) < 1e-12
        assert _relative(of_centroids, PUBLISHED["oltr_centroid_gradient"]) < 1e-12


def test_logits_of_oltr_do_not_move_the_centroids():
    head = heads.head("memory", 32, 10, rngs=nnx.Rngs(0))
    graph, params = nnx.split(head)
    params["centroids"][...] = jnp.float32(PUBLISHED["oltr_centroids"])
    features = jnp.float32(PUBLISHED["oltr_features"])
    total = lambda params: jnp.sum(jnp.sin(nnx.merge(graph, params)(features)))
    gradient = jax.jit(jax.grad(total))(params)
    assert not np.any(gradient["centroids"][...])
    assert np.any(gradient["kernel"][...])
