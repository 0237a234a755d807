"""What a user would pick instead: ResNet-32 on images of CIFAR's shape, batch 128.

`sgd`, `absgd`, `l2rw` and `meta` are the trainer's step. `device_loop` makes many
updates per dispatch on an accelerator (one on a CPU), with the images on the device;
`bfloat16` computes in that type. `flax` is the network written in Flax, in a jitted
step of Optax's SGD. With `--torch-python` there is also PyTorch, eager, in both memory
formats: plain SGD, and `absgd`, the authors' published package, if that interpreter has
it; and both in bfloat16 by autocast. Every step starts from bytes on the device, and
converts them. No variant loads or augments data.
"""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import flax_resnet, interleave, trainer_step
from benchmarks.interleave import Request, Runner, call
from benchmarks.summary import Group

BASELINE = "sgd"
TRAINER = (BASELINE, "absgd", "l2rw", "meta")
HALF: dict[str, Any] = {"model.dtype": "bfloat16"}
# Form of the step, and changes of the run.
FASTER: dict[str, tuple[str, dict[str, Any]]] = {
    "absgd_device_loop": ("device_loop", {}),
    "absgd_bfloat16": ("trainer", HALF),
    "absgd_device_loop_bfloat16": ("device_loop", HALF),
}
FORMATS = ("nchw", "channels_last")
LAM, GAMMA = 5.0, 0.5  # of the package; they change no time
SCRIPT = interleave.ROOT / "benchmarks" / "torch_worker.py"


def measure(runner: Runner) -> Iterator[Group]:
    """Yields one group, with ratios to the trainer's SGD, and to torch's in float32.

    The latter is the faster of PyTorch's two memory formats.
    """
    config = runner.config
    batch = 8 if config.quick else 128
    blocks, widths = ((1, 1), (4, 8)) if config.quick else ((5, 5, 5), (16, 32, 64))
    facts: dict[str, Any] = {"batch": batch, "torch": None}
    torch = {}
    if config.torch_python is None:
        runner.say("PyTorch is left out: it needs --torch-python.")
    else:
        command = (str(config.torch_python), "-I", str(SCRIPT))
        with contextlib.closing(interleave.Child("torch", command)) as child:
            facts["torch"] = child.ask({})
        if not facts["torch"]["absgd"]:
            runner.say("The authors' package is left out: it is not installed.")
        wanted = pytorch(bool(facts["torch"]["absgd"]), batch, blocks, widths)
        torch = {name: (command, request) for name, request in wanted.items()}
    variants = ours(batch, blocks, widths)
    group = runner.group(f"ResNet-32, batch {batch}", variants, facts, torch=torch)
    plain = [f"torch_sgd_{layout}" for layout in FORMATS if torch]
    plain.sort(key=lambda name: statistics.median(group.variants[name].samples))
    yield group._replace(baselines=(BASELINE, *plain[:1]))


def ours(
    batch: int, blocks: Sequence[int], widths: Sequence[int]
) -> dict[str, Request]:
    """The variants in JAX, by name; blocks and widths are those of each stage."""
    size = {"model.blocks": blocks, "model.widths": widths}
    forms = {name: (name, "trainer", {}) for name in TRAINER}
    forms |= {name: ("absgd", *form) for name, form in FASTER.items()}
    step = trainer_step.build
    return {
        name: call(step, method=method, form=form, batch=batch, changes=size | changes)
        for name, (method, form, changes) in forms.items()
    } | {"flax": call(flax_resnet.build, batch=batch, blocks=blocks, widths=widths)}


def pytorch(
    package: bool, batch: int, blocks: Sequence[int], widths: Sequence[int]
) -> dict[str, Request]:
    """The variants in PyTorch, with the authors' package or without it."""
    shape = {"batch": batch, "blocks": blocks, "widths": widths}
    shape |= {"lam": LAM, "gamma": GAMMA}
    losses = ("sgd", "absgd") if package else ("sgd",)
    return {
        f"torch_{loss}_{layout}": shape | {"loss": loss, "format": layout}
        for loss in losses
        for layout in FORMATS
    } | {
        f"torch_{loss}_bfloat16": shape
        | {"loss": loss, "format": "channels_last", "dtype": "bfloat16"}
        for loss in losses
    }
