"""Your own data: a start for each format."""

import dataclasses
from typing import Any

from experiments import configs
from experiments.presets._preset import Preset

_NOTE = (
    "None of the paper's. λ > 0 follows the losses at a radius of 0.4 nats: see "
    "docs/choosing_lambda.md. For labels that are wrong at random add "
    "--method.lam=-inf --method.start-at 0.1, or 0.5 where classes are rare, too. "
    "Every field may be set on the command line; see docs/your_data.md."
)


def presets() -> list[Preset]:
    """Tables, arrays, folders of images, and texts."""
    small = configs.Optimizer(learning_rate=0.05, decay="cosine", weight_decay=5e-4)

    def preset(name: str, title: str, data: configs.Data, **fields: Any) -> Preset:
        fields = {"method": configs.AUTOMATIC, "optimizer": small, **fields}
        run = configs.Run(data=data, **fields)
        return Preset(name, "Your own data (--data.path PATH)", title, run, note=_NOTE)

    return [
        preset(
            "own_table",
            "Your own table, CSV or Parquet",
            configs.Data("table"),
            model=configs.Model("mlp"),
        ),
        preset(
            "own_arrays",
            "Your own images in NumPy arrays; vectors with --model.name mlp",
            configs.Data("arrays"),
            model=configs.Model("convnet", widths=(32, 64, 128)),
            epochs=20,
        ),
        preset(
            "own_images",
            "Your own images, in a folder for each class",
            configs.Data("folder", image_size=64),
            model=configs.Model("convnet", widths=(32, 64, 128, 256)),
        ),
        preset(
            "own_text",
            "Your own texts, CSV or .txt files in a folder for each class",
            configs.Data("text"),
            model=configs.Model("bilstm", widths=(64,), dropout=0.5),
            # An LSTM hardly moves under SGD.
            method=dataclasses.replace(configs.AUTOMATIC, name="abadam"),
            optimizer=dataclasses.replace(small, learning_rate=2e-3, weight_decay=1e-2),
            epochs=10,
            batch_size=32,
        ),
    ]
