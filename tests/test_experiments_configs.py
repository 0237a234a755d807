"""Configs: values that refuse what cannot be, without JAX."""

import dataclasses
import math
import subprocess
import sys

import pytest

from experiments import configs


def test_configs_and_the_command_line_import_no_jax():
    code = (
        "import sys; import experiments.configs, experiments.__main__; "
        "sys.exit(any(m.split('.')[0] in ('jax', 'flax', 'optax', 'matplotlib') "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: configs.Data(imbalance_ratio=0.5), "imbalance_ratio .* got 0.5"),
        (lambda: configs.Data(noise_rate=1.0), "noise_rate .* got 1.0"),
        (lambda: configs.Data(test_per_class=0), "test_per_class .* got 20 and 0"),
        (lambda: configs.Data(max_shift=-1), "max_shift .* got 0 and -1"),
        (lambda: configs.Model(widths=()), "widths .* got \\(\\)"),
        (lambda: configs.Model(classes=1), "classes .* got 1"),
        (lambda: configs.Optimizer(learning_rate=math.nan), "learning_rate .* nan"),
        (lambda: configs.Optimizer(0.1, momentum=1.0), "momentum .* got 1.0"),
        (lambda: configs.Optimizer(0.1, weight_decay=-1.0), "weight_decay .* -1.0"),
        (lambda: configs.Optimizer(0.1, drop_at=2.0), "drop_at .* got 2.0"),
        (lambda: configs.Optimizer(0.1, drop_factor=0.5), "drop_factor .* got 0.5"),
        (lambda: configs.Attention(gamma=0.0), "gamma .* got 0.0"),
        (lambda: configs.Attention(start_at=-0.1), "start_at .* got -0.1"),
        (lambda: _run(epochs=0), "epochs .* got 0"),
        (lambda: _run(batch_size=1), "batch_size .* got 1"),
        (lambda: _run(lam=0.0), "lam must be nonzero, got 0.0"),
        (lambda: _run(seed=-1), "seed .* got -1"),
        (lambda: _run(data=configs.Data(tail_classes=10)), "tail_classes .* got 10"),
        (lambda: configs.Demo(seeds=0), "seeds .* got 0"),
        (lambda: configs.Demo(epochs=0), "epochs .* got 0"),
        (
            lambda: dataclasses.replace(configs.LONG_TAIL, lams=(math.inf,)),
            "lams must be finite",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _run(**changes):
    return dataclasses.replace(configs.LONG_TAIL.run, **changes)


def test_a_study_runs_sgd_and_every_lam_on_the_same_terms():
    runs = configs.LABEL_NOISE.runs(seed=3)
    assert [run.lam for run in runs] == [math.inf, *configs.LABEL_NOISE.lams]
    assert [run.method for run in runs] == ["SGD"] + 3 * ["ABSGD"]
    assert len({dataclasses.replace(run, lam=1.0) for run in runs}) == 1


def test_the_demo_gives_both_methods_one_budget():
    for study in configs.Demo(seeds=2, epochs=5).studies():
        assert study.seeds == 2
        assert {run.epochs for run in study.runs(0)} == {5}
