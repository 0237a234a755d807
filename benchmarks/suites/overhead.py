"""ABSGD over SGD: the same model and program otherwise, over sizes and batches.

`sgd` is a hand-written step of Optax's SGD; `sgd_again` the same in another process.
The multilayer perceptrons use the library without the trainer. ResNet-32 runs in the
trainer's step, where plain SGD is ABSGD at λ = ∞. So it is compared with hand-written
SGD: `plain`, and `masked`, which also has the padding mask that batches of fixed size
need. The trainer's cost beyond `masked` is that of attention and metrics.

The value route multiplies every parameter's gradient by one number, 1 / (6 batch) of
the operations where every parameter is used once an example, and more than 0.1% below
batches of some 170. In a convolution, whose parameters are used at every pixel, it is
next to nothing.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.interleave import Setting
from benchmarks.summary import Group

# Floating point operations of a step above which it is not run on a CPU.
CPU_LIMIT = 1e12

ROUTES = {
    "sgd": "sgd",
    "sgd_again": "sgd",
    "pullback": "pullback",
    "value": "value",
}
SMALL = {"model.blocks": [1, 1], "model.widths": [4, 8]}
_VALUE = {"method.route": "value"}


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: sizes, batches, number of rounds.

    Yields:
      A group for each size and batch, then the networks.
    """
    config = setting.config
    for parameters in config.parameters:
        for batch in config.batch_sizes:
            common = {"kind": "mlp", "parameters": parameters, "batch": batch}
            yield setting.group(
                f"MLP, {parameters:,} parameters, batch {batch}",
                {name: common | {"route": route} for name, route in ROUTES.items()},
                {"parameters": parameters, "batch": batch},
                _too_long,
            )
    yield _networks(setting)


def _too_long(facts: dict[str, Any]) -> str:
    if facts["platform"] != "cpu" or facts["flops"] <= CPU_LIMIT:
        return ""
    return f"A step is {facts['flops']:.1e} operations: not run on a CPU."


def _networks(setting: Setting) -> Group:
    quick = setting.config.quick
    forms: dict[str, dict[str, Any]] = {
        "masked": {"form": "masked"},
        "masked_again": {"form": "masked"},
        "plain": {"form": "plain"},
        "trainer_sgd": {"method": "sgd"},
        "trainer_absgd": {"method": "absgd"},
        "trainer_value": {"method": "absgd", "changes": _VALUE},
    }
    if quick:
        forms = {name: forms[name] for name in ("masked", "trainer_absgd")}
    batch = 8 if quick else 128
    described = {
        name: {"kind": "network", "batch": batch}
        | form
        | {"changes": form.get("changes", {}) | (SMALL if quick else {})}
        for name, form in forms.items()
    }
    return setting.group(f"ResNet-32, batch {batch}", described)
