"""Configs: values that refuse what cannot be."""

import dataclasses
import math
import pathlib
import typing

import pytest

from experiments import commands, configs, fields
from experiments.commands import COMMANDS
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, studies
from experiments.train.session import Session

RUN = pathlib.Path("run")
VECTORS = configs.Contents("table", (3,), ("a", "b"))
COLOURED = configs.Contents("images", (8, 8, 3), ("a", "b"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _data(imbalance_ratio=0.5), "imbalance_ratio .* got 0.5"),
        (lambda: _data(noise_rate=1.0), "noise_rate .* got 1.0"),
        (lambda: _data(test_per_class=0), "test_per_class .* got 0 for digits"),
        (lambda: _data(source="cifar10"), "test_per_class .* got 50 for cifar10"),
        (lambda: _data(crop_padding=-1), "crop_padding .* got -1"),
        (lambda: _data(tail_classes=10), "tail_classes .* got 10"),
        (lambda: _data(mean=(0.5,)), "mean and std .* got \\(0.5,\\) and \\(\\)"),
        (lambda: _data(mean=(0.5, 0.5), std=(1.0, 1.0)), "digits has 1, got .0.5, 0"),
        (lambda: configs.Data("cifar10", mean=(0.0,) * 4, std=(1.0,) * 4), "has 3"),
        (lambda: configs.Data(source="imdb", augment_on="device"), "has no augment_on"),
        (lambda: configs.Data("table", mean=(0.5,), std=(1.0,)), "has no mean, std"),
        (lambda: configs.Data("arrays", mean=(0.5,), std=(1.0,), contents=VECTORS),
         "arrays is a table, which has no mean, std"),
        (lambda: configs.Data("arrays", mean=(0.0,) * 2, std=(1.0,) * 2,
                              contents=COLOURED), "arrays has 3, got"),
        (lambda: _data(examples_per_class=0), "examples_per_class .* got 0"),
        (lambda: _data(resized_crop=True), "image files, got digits"),
        (lambda: _data(image_size=3), "must divide .* \\(8, 8, 1\\), got 3"),
        (lambda: _data(noise="asymmetric_sce"), "cifar100, got digits"),
        (lambda: configs.Data(source="imdb", flip=True), "imdb is text.* no flip"),
        (lambda: configs.Data(source="places_lt"), "image_size must be given"),
        (lambda: configs.Data(source="places_lt", image_size=8, rotation=1.0),
         "held in memory, got places_lt"),
        (lambda: configs.Model(widths=(0,)), "widths .* got 0"),
        (lambda: configs.Model(dropout=1.0), "dropout .* got 1.0"),
        (lambda: configs.Model(name="bilstm", dtype="bfloat16"),
         "networks that read images.* got bilstm"),
        (lambda: configs.Loss(prune_from=2.0), "prune_from .* got 2.0"),
        (lambda: configs.Loss(effective_beta=1.0), "effective_beta .* got 1.0"),
        (lambda: configs.Method(lam=0.0), "lam must be nonzero, got 0.0"),
        (lambda: configs.Method(lam=math.nan), "lam must be nonzero, got nan"),
        (lambda: configs.Method(gamma=2.0), "gamma must lie in \\(0, 1\\], got 2.0"),
        (lambda: configs.Method(gamma=math.nan), "gamma .* got nan"),
        (lambda: configs.Method(rho=math.inf), "rho must be positive and finite"),
        (lambda: configs.Method(step_size=math.inf), "step_size must be finite"),
        (lambda: configs.Method(start_at=-0.1), "start_at .* got -0.1"),
        (lambda: configs.Method(init_s=-1.0), "init_s .* got -1.0"),
        (lambda: configs.Method(max_weight=0.5), "max_weight .* at least 1, got 0.5"),
        (lambda: configs.Method(route="value", max_weight=2.0, init_s=0.0),
         "max_weight together with init_s .* 'value'"),
        (lambda: configs.Method(route="value", uniform=True), "pullback .* 'value'"),
        (lambda: configs.Method(microbatch_size=4), "microbatch_size .* 4 with pull"),
        (lambda: configs.Optimizer(learning_rate=math.nan), "learning_rate .* nan"),
        (lambda: configs.Optimizer(momentum=1.0), "momentum .* got 1.0"),
        (lambda: configs.Optimizer(weight_decay=-1.0), "weight_decay .* -1.0"),
        (lambda: configs.Optimizer(drop_at=(2.0,)), "drop_at .* got 2.0"),
        (lambda: configs.Optimizer(drop_factor=0.5), "drop_factor .* got 0.5"),
        (lambda: configs.Optimizer(clip_norm=0.0), "clip_norm .* got 0.0"),
        (lambda: _run(epochs=0), "epochs .* got 0"),
        (lambda: _run(batch_size=1), "batch_size .* got 1"),
        (lambda: _run(seed=-1), "seed .* got -1"),
        (lambda: _run(seed=2**31), "seed must be at most 2,147,483,647, got 214"),
        (lambda: _run(epochs=10**22), "epochs must be at most .* got 10000000000"),
        (lambda: _run(batch_size=10**12), "batch_size must be at most 1,048,576, got"),
        (lambda: _data(corruption_seed=-1), "corruption_seed .* not be neg.* got -1"),
        (lambda: Session(prefetch=10**11), "prefetch must be at most 65,536, got"),
        (lambda: configs.Model(widths=(8, 10**12)), "widths must be at most 65,536"),
        (lambda: _data(mean=(math.nan,), std=(1.0,)), "mean must be finite, got nan"),
        (lambda: _data(mean=(0.0,), std=(math.inf,)), "std .* finite, got inf"),
        (lambda: configs.Method(alpha=math.inf), "alpha must be .* finite, got inf"),
        (lambda: configs.Optimizer(learning_rate=math.inf), "finite, got inf"),
        (lambda: commands.Sweep(_run(), lams="1e-50").settings(),
         "lam must be a float32.* got 1e-50"),
        (lambda: _run(model=configs.Model(name="bilstm")), "got bilstm for digits"),
        (lambda: _run(loss=configs.Loss(name="ldam")), "'cosine', got 'linear'"),
        (lambda: _run(method=configs.Method(route="value", microbatch_size=4)),
         "BatchNorm .* depends on the others"),
        (lambda: Session(devices=0), "devices .* got 0"),
        (lambda: Session(distributed=True, parallel="pmap"), "pmap runs on one host"),
        (lambda: Session(coordinator="a:1"), "coordinator needs --distributed"),
        (lambda: commands.Sweep(_run(), session=Session(record_losses=True)),
         "A sweep records no losses of single examples"),
        (lambda: Session(stall_timeout_seconds=0.0), "stall_timeout_seconds .* got"),
        (lambda: commands.Toy(lam=0.0), "lam must be nonzero, got 0.0"),
        (lambda: commands.Demo(seeds=0), "seeds .* got 0"),
        (lambda: commands.Demo(epochs=0), "epochs .* got 0"),
        (lambda: commands.Recipes(seeds=0), "seeds must be at least 1, got 0"),
        (lambda: commands.Evaluate(RUN, devices=0), "devices must be at least 1"),
        (lambda: commands.Suspects(RUN, show=-3), "show must not be negative, got -3"),
        (lambda: commands.Bench(repeats=0), "repeats must be at least 1, got 0"),
        (lambda: commands.Bench(sizes=()), r"sizes and batches must have .* got \(\)"),
        (lambda: dataclasses.replace(LONG_TAIL, lams=(math.inf,)), "lams must be"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("number", [1e-50, -1e-50, 1e-39, 1e39, -1e300])
@pytest.mark.parametrize(
    "make",
    [
        lambda number: configs.Method(lam=number),
        lambda number: configs.Method(rho=abs(number)),
        lambda number: configs.Method(alpha=abs(number)),
        lambda number: configs.Optimizer(learning_rate=abs(number)),
        lambda number: configs.Optimizer(weight_decay=abs(number)),
    ],
)
def test_a_number_that_float32_does_not_hold_is_refused(make, number):
    with pytest.raises(ValueError, match=r"must be a float32: 0.* got -?1e"):
        make(number)
    nearest = min(max(abs(number), 2.0**-126), 3.4e38)
    make(math.copysign(nearest, number))


RUNS = (configs.Run, configs.Data, configs.Model, configs.Loss, configs.Method)
RUNS += (configs.Optimizer, Session)


@pytest.mark.parametrize("config", [*(c.config for c in COMMANDS.values()), *RUNS])
def test_every_number_of_a_configuration_has_a_bound(config):
    hints = typing.get_type_hints(config)
    for field, declared in fields._declared(config).items():
        kinds = {hints[field], *typing.get_args(hints[field])}
        if kinds & {int, float}:
            assert issubclass(config, fields.Checked)
            assert any(isinstance(each, fields.Bound) for each in declared), field


def test_a_program_cannot_depend_on_what_is_not_compiled_in():
    compiled = fields.compiled(configs.Run())
    assert compiled.batch_size == configs.Run().batch_size
    for use in (
        lambda: compiled.optimizer.learning_rate * 2.0,
        lambda: compiled.method.lam < 0.0,
        lambda: bool(compiled.data.flip),
    ):
        with pytest.raises(TypeError):
            use()


ON_DEVICE = {"data.augment_on": "device"}
RADIUS = {"method.rho": 0.1}


@pytest.mark.parametrize(
    ("base", "changes", "shared"),
    [
        ({}, {"method.lam": 0.5, "method.gamma": 0.1, "seed": 3, "epochs": 2}, True),
        ({}, {"data.crop_padding": 2, "data.imbalance_ratio": 5.0}, True),
        ({}, {"data.sampling": "effective", "data.sampling_beta": 0.5}, True),
        ({}, {"optimizer.decay": "cosine", "optimizer.learning_rate": 0.2}, True),
        ({}, {"method.start_at": 0.0, "data.noise_rate": 0.2}, True),
        ({}, {"batch_size": 8}, False),
        ({}, {"method.init_s": 0.0}, False),
        (ON_DEVICE, {"data.crop_padding": 2}, False),
        (RADIUS, {"method.lam": -math.inf}, False),  # a radius has a sign
    ],
)
def test_runs_that_differ_in_arguments_or_on_the_host_share_a_program(
    base, changes, shared
):
    run = configs.replace(configs.Run(), base)
    other = configs.replace(run, changes)
    assert (fields.compiled(other) == fields.compiled(run)) == shared


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"method.lam": 1.0}, "method.start_at 0.8"),
        ({"method": configs.Method("cvar", start_at=0.8)}, "method.start_at 0.8"),
        ({"method.lam": 1.0, "epochs": 3}, ""),
        ({"method.lam": math.inf}, ""),
        ({"method": configs.Method("sgd", start_at=0.8)}, ""),
        ({"loss": configs.Loss(class_weights=True, class_weights_from=0.9)},
         "loss.class_weights_from 0.9"),
        ({"loss": configs.Loss(class_weights_from=0.9)}, ""),
        ({"loss": configs.Loss("truncated", prune_from=0.9)}, "loss.prune_from 0.9"),
        ({"loss": configs.Loss("truncated")}, ""),  # which is never, as asked for
    ],
)  # fmt: skip
def test_what_would_begin_after_the_last_epoch_is_refused(changes, late):
    run = configs.replace(_run(), {"epochs": 2, "method.start_at": 0.8} | changes)
    assert run.too_late == late
    if not late:
        return run.refuse_too_late()
    with pytest.raises(configs.BadConfiguration, match=f"{late} would never come"):
        run.refuse_too_late()


def _run(**changes):
    return dataclasses.replace(LONG_TAIL.run, **changes)


def _data(**changes):
    return dataclasses.replace(LONG_TAIL.run.data, **changes)


def test_a_study_runs_sgd_and_every_lam_on_the_same_terms():
    runs = LABEL_NOISE.runs(seed=3)
    assert [run.method.lam for run in runs] == [math.inf, *LABEL_NOISE.lams]
    assert [run.method.title for run in runs] == ["SGD"] + 3 * ["ABSGD"]
    assert len({configs.replace(run, {"method.lam": 1.0}) for run in runs}) == 1


def test_the_demo_gives_both_methods_one_budget():
    for study in studies(epochs=5):
        assert {run.epochs for run in study.runs(0)} == {5}
