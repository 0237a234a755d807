"""Vmapped runs in one program, against the same runs one after the other.

A step is an update of one run, so the ratio to `1 run` is the time of a run in a sweep
relative to that of a run by itself. All have their data on the device; on an
accelerator a dispatch makes 50 updates, on a CPU one.
"""

from collections.abc import Iterator

from benchmarks.interleave import Setting
from benchmarks.summary import Group


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: number of rounds.

    Yields:
      A group: the digits with 1, 4 and 16 runs at a time.
    """
    several = (1, 2) if setting.config.quick else (1, 4, 16)
    common = {"kind": "sweep", "preset": "digits_long_tail"}
    described = {
        "1 run" if members == 1 else f"{members} vmapped runs": common
        | {"members": members}
        for members in several
    }
    # All samples have the same number of updates, enough for every member to make some.
    steps = dict.fromkeys(described, max(several) * (1 if setting.config.quick else 20))
    yield setting.group("digits, convnet", described, steps=steps)
