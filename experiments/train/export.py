"""A trained network for use without this programme; `python -m experiments export`."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export
from safetensors.numpy import save

from experiments import commands, configs
from experiments.results import run_dir, run_log
from experiments.train import runs, sharding, steps
from experiments.train.session import Session

NETWORK, WEIGHTS = "network.stablehlo", "weights.safetensors"
PLATFORMS = ("cpu", "cuda", "tpu")

_README = """\
A trained network: examples as {source} stores them, {dtype} [n, {shape}] for any n, to
the probabilities of {classes} classes, float32 [n, {classes}]. It prepares them itself:
{prepared}

Needs jax and flatbuffers, on a CPU, a CUDA device or a TPU:

    import pathlib
    import jax
    network = jax.export.deserialize(pathlib.Path("{network}").read_bytes())
    probabilities = network.call(examples)

{weights} has the parameters and BatchNorm's running statistics by name, as
safetensors.numpy.load_file reads them; export.json the shapes, classes and versions.
"""
_PREPARED = {
    "uint8": "bytes are divided by 255, then normalised as in training.",
    "float32": "numbers in [0, 1] are normalised as in training.",
    "int32": "token ids are taken as they are.",
}
_OF_OWN = """\
not quite: columns and channels are to be given as training had them, missing numbers
filled in, standardised, categories as 0 and 1. `predict` does all of it."""


def main(config: commands.Export) -> int:
    """Writes the network of a run, its weights and how to use them.

    Args:
      config: run directory and output directory.

    Returns:
      Exit status 0.

    Raises:
      BadConfiguration: there is no such run, or the output cannot be written.
    """
    kept = run_dir.load(config.dir)
    run, data = kept.run, kept.run.data
    step, state = runs.restore(config.dir, kept, sharding.layout(1))
    state = jax.device_get(state)
    dtype = data.info.dtype
    if data.info.own and not data.info.files:
        task = runs.task_of(run, Session(data_dir=kept.data_dir))
        dtype = str(task.train.inputs.dtype)
    exported = exported_of(run, state, dtype)
    described: dict[str, Any] = {
        "preset": kept.preset,
        "run": run,
        "step": step,
        "input": {"dtype": dtype, "shape": ["batch", *data.shape]},
        "output": {"dtype": "float32", "shape": ["batch", data.classes]},
        "classes": data.class_names,
        "platforms": PLATFORMS,
        "versions": run_log.versions(),
    }
    readme = _README.format(
        source=data.source,
        dtype=dtype,
        shape=", ".join(map(str, data.shape)),
        classes=data.classes,
        prepared=_OF_OWN if data.info.own and dtype == "float32" else _PREPARED[dtype],
        network=NETWORK,
        weights=WEIGHTS,
    )
    out = config.out or config.dir / "export"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / NETWORK).write_bytes(exported.serialize())
        (out / WEIGHTS).write_bytes(save(weights(state)))
        run_log.save(out / "export.json", described)
        (out / "README.txt").write_text(readme, encoding="utf-8")
    except OSError as error:
        raise configs.BadConfiguration(
            f"{out} cannot be written: {error.strerror}."
        ) from error
    print(f"Step {step} of {config.dir} is in {out}: see README.txt there.")
    return 0


def exported_of(
    run: configs.Run, state: steps.TrainState, dtype: str | None = None
) -> export.Exported:
    """The network with its weights, from examples as stored to probabilities.

    `dtype` is theirs; None for that of the data set.
    """
    (batch,) = export.symbolic_shape("batch")
    data = run.data
    example = jax.ShapeDtypeStruct(
        (batch, *data.shape), np.dtype(dtype or data.info.dtype)
    )
    network = jax.jit(steps.probabilities_of(run, state))
    return export.export(network, platforms=PLATFORMS)(example)


def weights(state: steps.TrainState) -> dict[str, np.ndarray]:
    """Parameters and statistics by name, such as `blocks.0.norm.mean`."""
    return {
        ".".join(map(str, path)): np.asarray(value[...])
        for part in (state.params, state.frozen, state.statistics)
        for path, value in nnx.to_flat_state(part)
        if not isinstance(value, nnx.RngState)
    }
