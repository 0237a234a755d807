"""The input pipeline, without a step, against the step that it feeds.

A loader that is not slower than the step never starves it, since both run at the same
time: its time over the step's should be below one. `loader` crops and flips images of
CIFAR's size for ResNet-32; `jpeg` decodes and crops photographs of 224 pixels in one
process for ResNet-50, whose examples per second are those of one worker. Busy processes
would disturb the others, so several workers are timed by themselves, after the rest.
"""

import os
from collections.abc import Iterator
from typing import Any

from benchmarks.interleave import Setting
from benchmarks.suites.overhead import SMALL
from benchmarks.summary import Group

_BASELINE = "step"


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: number of rounds.

    Yields:
      A group for arrays, and one for files.
    """
    quick = setting.config.quick
    batch, of_files, size = (8, 4, 32) if quick else (128, 32, 224)
    step: dict[str, Any] = {"kind": "network", "changes": SMALL if quick else {}}
    yield setting.group(
        f"CIFAR, batch {batch}",
        {
            _BASELINE: step | {"batch": batch},
            "loader": {"kind": "loader", "batch": batch},
        },
    )
    step["preset"] = "imagenet_lt_stage1"
    step["changes"] = {"data.image_size": size}
    jpeg: dict[str, Any] = {"kind": "files", "batch": of_files, "size": size}
    if quick:
        jpeg |= {"images": 8, "stored": [60, 50]}
        step["changes"] |= {"model.blocks": [1], "model.widths": [4]}
    photographs = setting.group(
        f"JPEG, {size} pixels, batch {of_files}",
        {_BASELINE: step | {"batch": of_files}, "jpeg": jpeg},
    )
    several = 1 if quick else os.cpu_count() or 1
    name = f"jpeg, workers: {several}"
    workers_only = setting.group(
        name,
        {name: jpeg | {"workers": several}},
        steps={name: 2 if quick else 8 * several},
    )
    photographs.variants.update(workers_only.variants)
    yield photographs
