"""The settings of a training that do not change its numbers. Imports no JAX."""

import dataclasses
import pathlib
from typing import Literal

from experiments.fields import (
    AtLeastTwo,
    Checked,
    Count,
    NotNegative,
    Positive,
    Size,
    SmallSize,
    refuse,
)


@dataclasses.dataclass(frozen=True)
class Session(Checked):
    """Settings that do not change a run's numbers, but for float32 rounding.

    Attributes:
      out: run directory; None makes one from the preset's name, method, λ or ρ, and
        seed.
      data_dir: where the data sets are, as TFDS or as published archives unpacked.
      download: whether TFDS may fetch what is missing.
      parallel: `jit` partitions the program by the sharding of the batch, `pmap` runs
        it on each device with explicit collectives.
      devices: number of devices; None for all there are.
      distributed: whether this is one process of several; see `jax.distributed`.
      coordinator: address of the first process, `host:port`; None to ask the cluster.
      processes: number of processes; None to ask the cluster.
      process: index of this process, from 0; None to ask the cluster.
      stall_timeout_seconds: seconds without an update, compiling and evaluating
        included, after which a process of several ends, because another one hangs; inf
        waits for ever. A host that is lost ends the others after some ten seconds in
        any case.
      workers: processes that decode image files; as many more for the meta set, if the
        method uses it.
      prefetch: batches that are loaded ahead of the device.
      steps_per_dispatch: most updates in a dispatch. 1 sends batch by batch. More run a
        device loop: the training set stays on the device, and a dispatch sends the
        indices of many batches. For accelerators, where a small update takes less time
        than its launch; not for a CPU, whose convolutions are some 35 times slower in
        such a loop.
      checkpoint_seconds: seconds between two checkpoints within an epoch. An epoch also
        ends with one, unless the one before is less than a second old.
      checkpoints: number of checkpoints that are kept; as many of the last epochs end
        with one in any case.
      tensorboard: whether metrics are written for TensorBoard too.
      record_losses: whether the loss of every training example, not augmented, is kept
        after each epoch, for `suspects`; takes a forward pass over them, and two bytes
        for each in the run directory.
    """

    out: pathlib.Path | None = None
    data_dir: pathlib.Path | None = None
    download: bool = False
    parallel: Literal["jit", "pmap"] = "jit"
    devices: Size | None = None
    distributed: bool = False
    coordinator: str | None = None
    processes: Size | None = None
    process: Count | None = None
    stall_timeout_seconds: Positive = 3600.0
    workers: Count = 2
    prefetch: SmallSize = 2
    steps_per_dispatch: Size = 1
    checkpoint_seconds: NotNegative = 300.0
    checkpoints: AtLeastTwo = 2
    tensorboard: bool = True
    record_losses: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            self.distributed and self.parallel == "pmap",
            "pmap runs on one host; take --parallel jit with --distributed.",
        )
        refuse(
            self.steps_per_dispatch > 1
            and (self.distributed or self.parallel == "pmap"),
            "Many steps per dispatch run in one process, under --parallel jit, got "
            f"{self.steps_per_dispatch}.",
        )
        refuse(
            self.coordinator is not None and not self.distributed,
            "coordinator needs --distributed.",
        )
