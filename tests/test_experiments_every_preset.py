"""Runs `tests/every_preset.py` in processes of their own.

Compiling is most of what rehearsals cost, and how far XLA is to optimize is said to a
process once, before it starts JAX. In these programs are compiled in a quarter of the
time.
"""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from tests import every_preset

FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later versions know the flag no more
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
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
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        cwd=pathlib.Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS},
        capture_output=True,
        text=True,
        check=False,
    )
    report = result.stdout[-8000:] + result.stderr[-2000:]
    assert result.returncode == 0, report
    assert f"{len(groups)} passed" in result.stdout, report
