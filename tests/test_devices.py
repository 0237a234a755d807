"""Runs `tests/eight_devices` in a process of its own.

JAX fixes the number of CPU devices when it starts, so eight of them need a fresh
process; the other tests keep the one device that a user has.
"""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / "eight_devices"


@pytest.mark.parametrize("module", sorted(p.stem for p in FOLDER.glob("test_*.py")))
def test_on_eight_devices(module):
    flags = os.environ.get("XLA_FLAGS", "")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         f"tests/eight_devices/{module}.py"],
        cwd=FOLDER.parent.parent,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    report = result.stdout[-8000:] + result.stderr[-2000:]
    assert result.returncode == 0, report
    assert " passed" in result.stdout, report
