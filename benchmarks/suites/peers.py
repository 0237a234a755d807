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
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import interleave
from benchmarks.interleave import Child, Setting
from benchmarks.summary import Group, Measured, spread

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
_SCRIPT = interleave.ROOT / "benchmarks" / "torch_worker.py"


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: number of rounds, and where torch is.

    Yields:
      One group. Ratios are to the trainer's SGD, and to the faster of PyTorch's two
      plain SGDs in float32.
    """
    config = setting.config
    batch = 8 if config.quick else 128
    blocks, widths = ([1, 1], [4, 8]) if config.quick else ([5, 5, 5], [16, 32, 64])
    shape = {"batch": batch, "blocks": blocks, "widths": widths}
    described = ours(**shape)
    title = f"ResNet-32, batch {batch}"
    setting.say(title)
    children = setting.workers.take(list(described))
    facts = interleave.build(children, described)
    known: dict[str, Any] = {"batch": batch, "torch": None}
    with contextlib.ExitStack() as stack:
        if config.torch_python is None:
            setting.say("PyTorch is left out: it needs --torch-python.")
        else:
            command = (str(config.torch_python), "-I", str(_SCRIPT))
            with Child("torch", command) as asked:
                known["torch"] = asked.ask({})
            losses = ["sgd"]
            if known["torch"]["absgd"]:
                losses.append("absgd")
            else:
                setting.say("The authors' package is left out: it is not installed.")
            on_cpu = facts[BASELINE]["platform"] == "cpu"
            shape |= {"device": "cpu" if on_cpu else "cuda", "lam": LAM, "gamma": GAMMA}
            wanted = {
                f"torch_{loss}_{layout}": shape | {"loss": loss, "format": layout}
                for loss in losses
                for layout in FORMATS
            } | {
                f"torch_{loss}_bfloat16": shape
                | {"loss": loss, "format": "channels_last", "dtype": "bfloat16"}
                for loss in losses
            }
            torches = {
                name: stack.enter_context(Child(name, command)) for name in wanted
            }
            facts |= interleave.build(torches, wanted)
            children |= torches
        samples, steps = interleave.measure(
            children, rounds=config.rounds, sample_seconds=config.sample_seconds
        )
    variants = {
        name: Measured(facts[name], samples[name], steps[name]) for name in samples
    }
    plain = [name for layout in FORMATS if (name := f"torch_sgd_{layout}") in samples]
    plain.sort(key=lambda name: spread(samples[name])["median"])
    yield Group(title, known, variants, (BASELINE, *plain[:1]))


def ours(
    batch: int, blocks: Sequence[int], widths: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The variants in JAX.

    Args:
      batch: examples.
      blocks: of each stage of the network.
      widths: channels of each stage.

    Returns:
      What each is to build, by name; the first is the baseline.
    """
    size = {"model.blocks": blocks, "model.widths": widths}
    common: dict[str, Any] = {"kind": "network", "batch": batch}
    flax = {"kind": "flax", "batch": batch, "blocks": blocks, "widths": widths}
    return {
        **{name: common | {"method": name, "changes": size} for name in TRAINER},
        **{
            name: common | {"method": "absgd", "form": form, "changes": size | changes}
            for name, (form, changes) in FASTER.items()
        },
        "flax": flax,
    }
