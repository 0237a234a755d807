"""The trainer's steps have programs for GPUs and TPUs, on whatever machine this is."""

import re

import numpy as np
import pytest

from experiments import configs, methods
from experiments.data.types import Examples
from experiments.train import device_loop, steps
from tests import training_problem as problem
from tests.accelerators import exported
from tests.digits_problem import LAYOUT

RUN = configs.replace(problem.DRAWN, {"data.rotation": 15.0})
GIVEN = problem.given(LAYOUT)
MOMENT = methods.step_hyperparams(RUN, 2, 0)
CONVOLUTION = re.compile(r"stablehlo\.convolution.* -> tensor<[^>]*x(b?f\d+)>")
# A network computes in the one or the other, whatever program it is in.
ELEMENTS = {"float32": "f32", "bfloat16": "bf16"}


def start(run):
    return steps.abstract_state(run, LAYOUT, problem.EXAMPLES)


def assert_convolves_in(dtype, program):
    assert set(CONVOLUTION.findall(program)) == {ELEMENTS[dtype]}


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ({"method.name": "sgd"}, "bfloat16"),
        (
            {"method.init_s": None, "method.max_weight": 5.0, "method.route": "value"},
            "float32",
        ),
        (
            {"method.name": "abadam", "loss.name": "truncated", "loss.k": 0.1},
            "bfloat16",
        ),
    ],
    ids=["sgd", "bounded", "truncated"],
)
def test_a_step_is_exported_for_gpu_and_tpu(method, dtype):
    run = configs.replace(RUN, {**method, "model.dtype": dtype})
    step = steps.program(run, LAYOUT).train(MOMENT)
    program = exported(step, start(run), problem.batch(0), GIVEN, MOMENT)
    assert_convolves_in(dtype, program)


def test_an_evaluation_is_exported_for_gpu_and_tpu():
    program = exported(steps.counts_of(RUN), start(RUN), problem.batch(0))
    assert_convolves_in("float32", program)


def test_many_steps_of_a_dispatch_are_exported_for_gpu_and_tpu():
    run = configs.replace(RUN, {"model.dtype": "bfloat16"})
    batch = problem.batch(0)
    examples = device_loop.to_device(Examples(batch.inputs, batch.labels), LAYOUT)
    index = np.tile(np.arange(problem.SIZE, dtype=np.int32), (4, 1))
    step_inputs = device_loop.step_inputs(index, index >= 0, [MOMENT] * 4, 4)
    update = device_loop.compiled(run, LAYOUT)
    program = exported(update, start(run), examples, GIVEN, step_inputs)
    assert_convolves_in("bfloat16", program)
    assert "stablehlo.while" in program
