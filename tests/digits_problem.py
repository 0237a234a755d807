"""A small training on digits, for the tests of many updates and many runs at once.

As a command line and as a run. They share compiled programs, as do the tests' files.
"""

import tyro

from experiments import commands, presets
from experiments.train import sharding

LAYOUT = sharding.layout(1)
PRESET = "digits_label_noise"
# A network of one layer, and 200 training examples: seven updates an epoch, the last
# one of eight.
TINY = (
    "--model.widths", "4", "--model.dropout", "0.2", "--data.examples-per-class", "90",
    "--batch-size", "32", "--epochs", "3", "--method.start-at", "0.34",
    "--data.augment-on", "device",
)  # fmt: skip
EXAMPLES, PER_EPOCH = 200, 7
BEGUN = commands.Train(presets.get(PRESET).run)
RUN = tyro.cli(commands.Train, default=BEGUN, args=TINY).run
