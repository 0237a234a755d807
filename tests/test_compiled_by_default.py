"""Runs some modules as users' programs are compiled, if the others are not."""

import pytest

from tests import compiling


@pytest.mark.skipif(not compiling.QUICK, reason="everything is compiled by default")
@pytest.mark.parametrize("module", compiling.BY_DEFAULT)
def test_compiled_by_default(module):
    assert compiling.passed(f"tests/{module}.py") > 0
