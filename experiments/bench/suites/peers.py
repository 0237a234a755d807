"""What a user would pick instead: ResNet-32 on images of CIFAR's shape, batch 128.

`sgd`, `absgd`, `l2rw` and `meta` are the trainer's own step; `flax` is the network as
Flax has it, in a jitted step of Optax's SGD. With `--torch-python` also PyTorch, eager,
in both memory formats: plain SGD, and `absgd`, which is the authors' published package
where that interpreter has it. Every step starts from the same bytes on the device, and
turns them into numbers itself. Nobody loads or augments anything.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from experiments.bench import interleave
from experiments.bench.interleave import Child, Setting
from experiments.bench.summary import Group, Measured, spread

BASELINE = "sgd"
TRAINER = (BASELINE, "absgd", "l2rw", "meta")
FORMATS = ("nchw", "channels_last")
LAM, GAMMA = 5.0, 0.5  # of the package; they change no time
_SCRIPT = interleave.ROOT / "experiments" / "bench" / "torch_worker.py"


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: number of rounds, and where torch is.

    Yields:
      One group. Ratios are to the trainer's SGD, and to the faster of PyTorch's two
      plain SGDs.
    """
    config = setting.config
    batch = 8 if config.quick else 128
    blocks, widths = ([1, 1], [4, 8]) if config.quick else ([5, 5, 5], [16, 32, 64])
    described: dict[str, dict[str, Any]] = {
        name: {
            "kind": "network",
            "contender": name,
            "batch": batch,
            "changes": {"model.blocks": blocks, "model.widths": widths},
        }
        for name in TRAINER
    }
    shape = {"batch": batch, "blocks": blocks, "widths": widths}
    described["flax"] = {"kind": "flax"} | shape
    title = f"ResNet-32, batch {batch}"
    setting.say(title)
    children = setting.workers.take(list(described))
    facts = interleave.build(children, described)
    common: dict[str, Any] = {"batch": batch, "torch": None}
    with contextlib.ExitStack() as stack:
        if config.torch_python is None:
            setting.say("PyTorch is left out: it needs --torch-python.")
        else:
            command = (str(config.torch_python), "-I", str(_SCRIPT))
            with Child("torch", command) as asked:
                common["torch"] = asked.ask({})
            losses = ["sgd"]
            if common["torch"]["absgd"]:
                losses.append("absgd")
            else:
                setting.say("The authors' package is left out: it is not installed.")
            on_cpu = facts[BASELINE]["platform"] == "cpu"
            shape |= {"device": "cpu" if on_cpu else "cuda", "lam": LAM, "gamma": GAMMA}
            wanted = {
                f"torch_{loss}_{layout}": shape | {"loss": loss, "format": layout}
                for loss in losses
                for layout in FORMATS
            }
            torches = {
                name: stack.enter_context(Child(name, command)) for name in wanted
            }
            facts |= interleave.build(torches, wanted)
            children |= torches
        samples, steps = interleave.measure(
            children, rounds=config.rounds, turn=config.turn
        )
    contenders = {
        name: Measured(facts[name], samples[name], steps[name]) for name in samples
    }
    plain = [name for name in samples if name.startswith("torch_sgd_")]
    plain.sort(key=lambda name: spread(samples[name])["median"])
    yield Group(title, common, contenders, (BASELINE, *plain[:1]))
