"""A trained network for use without this programme; `python -m experiments export`."""

import textwrap
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import save

from experiments import commands, configs
from experiments.data import own, own_table, text
from experiments.results import run_dir, run_log
from experiments.train import evaluation, sharding, steps
from experiments.train.session import Session

NETWORK, WEIGHTS = "network.stablehlo", "weights.safetensors"
PREPARE = "prepare.json"
PLATFORMS = ("cpu", "cuda", "tpu")

_ABOUT = (
    "A trained network: from {examples}, {dtype} [n, {shape}] for any n, to the "
    "probabilities of {classes} classes, float32 [n, {classes}]. {prepared}"
)
_README = """\
{about}

Needs jax and flatbuffers, on a CPU, a CUDA device or a TPU:

{code}
{weights} has the parameters and BatchNorm's running statistics by name, as
safetensors.numpy.load_file reads them; export.json the shapes, classes and versions.
"""
_PREPARED = {
    "uint8": "It prepares them itself: bytes are divided by 255, then normalised as in "
    "training.",
    "float32": "It prepares them itself: numbers in [0, 1] are normalised as in "
    "training.",
    "int32": "Token ids are taken as they are.",
}
_SCALED = (
    f"{PREPARE} has what they are prepared with: the medians of the training set, for "
    "missing numbers (NaN), its means and standard deviations, of each column or "
    "channel."
)
_CHANNELS = (
    " The channels of an image come last: take images[..., None] of those without, "
    "and np.moveaxis(images, 1, -1) where they come first."
)
_ENCODED = (
    f"{PREPARE} has what rows are prepared with, column by column: of numbers the "
    "median of the training set, for missing ones, its mean and standard deviation; "
    "the others have a 0 or 1 for each category. Without a header columns are called "
    "1, 2, and so on."
)
_TOKENIZED = (
    f"{PREPARE} has the words of the training set in the order of their ids, and the "
    "regular expressions of a word and of what stands for a space."
)
_CODE = f"""\
    import json, pathlib
    import jax, numpy as np

    network = jax.export.deserialize(pathlib.Path("{NETWORK}").read_bytes())
"""
_CODE_SCALED = """\
    prepare = json.loads(pathlib.Path("prepare.json").read_text(encoding="utf-8"))

    def prepared(examples):
        full = np.where(np.isnan(examples), prepare["median"], examples)
        return ((full - prepare["mean"]) / prepare["std"]).astype(np.float32)

    probabilities = network.call(prepared(examples))
"""
_CODE_ENCODED = """\
    prepare = json.loads(pathlib.Path("prepare.json").read_text(encoding="utf-8"))

    # Dicts of raw values by column, as csv.DictReader(open(PATH, encoding="utf-8-sig"))
    # has them.
    def prepared(rows):
        inputs = []
        for column in prepare["columns"]:
            cells = [str(row[column["name"]]).strip() for row in rows]
            if "categories" in column:
                known = column["categories"]
                inputs += [[cell == one for cell in cells] for one in known]
                continue
            missing = [cell.lower() in prepare["missing"] for cell in cells]
            full = [column["median"] if m else c for m, c in zip(missing, cells)]
            inputs.append((np.array(full, float) - column["mean"]) / column["std"])
        return np.array(inputs, np.float32).T

    probabilities = network.call(prepared(rows))
"""
_CODE_TOKENIZED = """\
    import re

    prepare = json.loads(pathlib.Path("prepare.json").read_text(encoding="utf-8"))
    ids = {w: i for i, w in enumerate(prepare["vocabulary"], prepare["first_id"])}

    def prepared(texts):
        tokens = np.full((len(texts), prepare["length"]), prepare["padding"], np.int32)
        for row, text in zip(tokens, texts):
            text = re.sub(prepare["space"], " ", text.lower())
            words = re.findall(prepare["word"], text)[-len(row):]
            found = [ids.get(word, prepare["unknown"]) for word in words]
            row[len(row) - len(found):] = found
        return tokens

    probabilities = network.call(prepared(texts))
"""
# Of each kind of `Task.prepare`: what it makes, what is said of it, and how it is done.
_PREPARING = {
    own_table.Encoded: ("prepared rows", _ENCODED, _CODE_ENCODED),
    own.Standardised: ("prepared examples", _SCALED, _CODE_SCALED),
    text.Tokenizer: ("token ids of texts", _TOKENIZED, _CODE_TOKENIZED),
}


def main(config: commands.Export) -> int:
    """Writes the network of a run, its weights and how to use them.

    Returns the exit status 0. A BadConfiguration where there is no such run, or the
    output cannot be written or is what the run reads.
    """
    kept = run_dir.load(config.dir)
    run, data = kept.run, kept.run.data
    out = config.out or config.dir / "export"
    outputs = (out / name for name in (NETWORK, WEIGHTS, PREPARE))
    evaluation.refuse_overwriting(run, *outputs)
    step, state = evaluation.restore(config.dir, kept, sharding.layout(1))
    state = jax.device_get(state)
    dtype = data.info.dtype
    prepare = None
    if data.info.own and not data.info.files:
        task = evaluation.task_of(run, Session(data_dir=kept.data_dir))
        dtype, prepare = str(task.train.inputs.dtype), task.prepare
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
    if prepare is not None:
        examples, prepared, code = _PREPARING[type(prepare)]
    else:
        stored = "images" if data.info.own else f"examples as {data.source} stores them"
        examples, prepared = stored, _PREPARED[dtype]
        code = "    probabilities = network.call(examples)\n"
    if data.info.own and len(data.shape) == 3:
        prepared += _CHANNELS
    about = _ABOUT.format(
        examples=examples,
        dtype=dtype,
        shape=", ".join(map(str, data.shape)),
        classes=data.classes,
        prepared=prepared,
    )
    about = textwrap.fill(about, 88, break_on_hyphens=False)
    readme = _README.format(about=about, code=_CODE + code, weights=WEIGHTS)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / NETWORK).write_bytes(exported.serialize())
        (out / WEIGHTS).write_bytes(save(evaluation.weights(state)))
        if prepare is not None:
            run_log.save(out / PREPARE, prepare.described())
        run_log.save(out / "export.json", described)
        (out / "README.txt").write_text(readme, encoding="utf-8")
    except OSError as error:
        raise configs.BadConfiguration(
            f"{out} cannot be written: {error.strerror}."
        ) from error
    print(f"Step {step} of {config.dir} is in {out}: see README.txt there.")
    return 0


def exported_of(
    run: configs.Run, state: steps.TrainState, dtype: str
) -> export.Exported:
    """The network with its weights, from examples as stored, of that dtype."""
    (batch,) = export.symbolic_shape("batch")
    example = jax.ShapeDtypeStruct((batch, *run.data.shape), np.dtype(dtype))
    network = jax.jit(steps.probabilities_of(run, state))
    return export.export(network, platforms=PLATFORMS)(example)
