"""What is installed: few dependencies, a hand-chosen surface, one version."""

import importlib.metadata
import subprocess
import sys

import absgd_jax


def test_importing_brings_jax_and_optax_and_starts_no_backend():
    """Whatever else is loaded is theirs: the library imports nothing of its own."""
    code = """
import sys, jax, optax
before = set(sys.modules)
import absgd_jax
new = {name.partition('.')[0] for name in set(sys.modules) - before}
third_party = {n for n in new if n not in sys.stdlib_module_names}
assert third_party == {'absgd_jax'}, third_party
from jax._src import xla_bridge
assert not xla_bridge._backends, 'importing started a backend'
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_requirements_are_jax_and_optax_alone():
    requirements = importlib.metadata.requires("absgd-jax")
    core = [r for r in requirements if "extra ==" not in r]
    assert sorted(r.split(">=")[0] for r in core) == ["jax", "optax"]


def test_the_public_names_are_documented_with_an_example():
    assert importlib.metadata.version("absgd-jax") == absgd_jax.__version__
    for name in absgd_jax.__all__:
        thing = getattr(absgd_jax, name)
        if name in ("losses", "AttentionState"):
            assert thing.__doc__
            continue
        for section in ("Args:", "Returns:", "Raises:", "Examples:"):
            assert section in thing.__doc__, (name, section)


def test_the_library_imports_nothing_of_the_experiments():
    code = "import sys, absgd_jax; assert 'experiments' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
