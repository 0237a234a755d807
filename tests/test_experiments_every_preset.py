"""Runs `tests/every_preset.py` in processes of its own, whose programs compile quickly.

Compiling is most of what smoke presets cost: it takes a quarter of the time.
"""

import pytest

from tests import compiling, every_preset

# Groups for a process; a third has the others.
LARGE = (("cifar100-resnet18",), ("cifar100-resnet32", "cifar10-sce_cnn"))
OTHERS = tuple(
    group
    for group in every_preset.GROUPS
    if not any(group in groups for groups in LARGE)
)


@pytest.mark.parametrize("groups", [*LARGE, OTHERS], ids=lambda groups: groups[0])
def test_every_preset_starts(groups):
    names = [
        f"tests/every_preset.py::test_every_preset_starts[{group}]" for group in groups
    ]
    assert compiling.passed(*names, flags=compiling.FLAGS) == len(groups)
