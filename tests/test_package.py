"""What is installed: few dependencies, a hand-chosen surface, one version."""

import ast
import doctest
import importlib.metadata
import inspect
import operator
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest
import yaml

import absgd_jax
from tests import release_check

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """The source distribution of this checkout, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    # A copy: setuptools would leave files here, and take up what it left before.
    source = tmp_path_factory.mktemp("source")
    for name in ("absgd_jax", "benchmarks", "docs", "experiments", "tests"):
        shutil.copytree(ROOT / name, source / name)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    # Isolated it would install setuptools twice, and takes a network.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    run(*build, folder, source, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def with_the_wheel_alone(artefacts, tmp_path_factory):
    """The interpreter of a new environment: the wheel, and what it requires.

    JAX, Optax and what they require are those of this environment: installing them
    again would take a minute and show nothing about the wheel. A path to all of this
    environment would let the wheel import what it does not require.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    install = [*pip, "--no-deps", "--no-index", artefacts[1]]
    run(*install, cwd=folder)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = pathlib.Path(run(python, "-c", where, cwd=folder).stdout.strip())
    for distribution in _required(importlib.metadata.requires("absgd-jax")):
        for name in {file.parts[0] for file in distribution.files or []}:
            theirs = pathlib.Path(distribution.locate_file(name))
            if name != ".." and theirs.exists() and not (site / name).exists():
                (site / name).symlink_to(theirs)
    return python


def _required(requirements, known=None):
    """The installed distributions that these require, and those that they require."""
    known = {} if known is None else known
    for requirement in requirements or []:
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" in requirement or name in known:
            continue
        try:
            known[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        _required(known[name].requires, known)
    return list(known.values())


def run(*command, cwd, status=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == status, result.stderr
    return result


def test_the_wheel_alone_is_enough(with_the_wheel_alone, tmp_path):
    """The README's first example, where nothing of the checkout can be seen."""
    python = with_the_wheel_alone
    example = """
import importlib.util, jax, jax.numpy as jnp, optax, absgd_jax
assert importlib.util.find_spec("experiments") is None
assert importlib.util.find_spec("flax") is None
tx = absgd_jax.absgd(learning_rate=0.1, lam=1.0)
params = jnp.zeros(2)
state = tx.init(params)
losses, pullback = jax.vjp(lambda p: (p[0] - jnp.arange(3.0)) ** 2, params)
updates, state = tx.update(pullback, state, params, losses=losses)
assert updates[0] > 0
print(absgd_jax.__version__, absgd_jax.__file__)
"""
    version, file = run(python, "-c", example, cwd=tmp_path).stdout.split()
    assert version == absgd_jax.__version__
    assert pathlib.Path(file).is_relative_to(python.parent.parent)


def test_without_their_packages_the_experiments_say_in_one_line_what_to_install(
    with_the_wheel_alone,
):
    command = (with_the_wheel_alone, "-m", "experiments", "list")
    result = run(*command, cwd=ROOT, status=1)
    (line,) = result.stderr.splitlines()
    assert "flax" in line
    assert "pip install '.[experiments]'" in line
    assert not result.stdout


def test_the_experiments_check_for_all_that_their_extra_installs():
    pytest.importorskip("tyro", reason="needs the packages of the experiments")
    from experiments import __main__ as command_line

    extra = PROJECT["optional-dependencies"]["experiments"]
    names = [requirement.split(">=")[0] for requirement in extra]
    assert sorted(command_line.MODULES) == sorted(names)
    imported = set()
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    others = imported - sys.stdlib_module_names - {*command_line.MODULES.values()}
    # pyarrow reads one format, and `compare` measures with what is in the checkout.
    assert others == {"absgd_jax", "benchmarks", "experiments", "pyarrow"}


def test_the_artefacts_hold_the_library_and_no_tests(artefacts):
    sdist, wheel = artefacts
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "absgd_jax").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == modules

    with tarfile.open(sdist) as archive:
        files = [m.name.partition("/")[2] for m in archive if m.isfile()]
    documents = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md"}
    build = {"pyproject.toml", "MANIFEST.in"}
    generated = {"PKG-INFO", "setup.cfg"}
    ours = {f for f in files if not f.startswith("absgd_jax.egg-info/")} - generated
    assert ours == modules | documents | build


def test_links_of_the_readme_work_on_any_page():
    """None is relative, and what they name in the repository exists."""
    text = (ROOT / "README.md").read_text()
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    used = re.findall(r"\]\[([^\]]+)\]", text)
    assert set(used) == set(defined)
    home = PROJECT["urls"]["Homepage"]
    here = 0
    for link in (*inline, *defined.values()):
        assert link.startswith("https://"), link
        if link.startswith(f"{home}/"):
            here += 1
            kind, branch, path = link.removeprefix(f"{home}/").split("/", 2)
            assert kind in ("blob", "raw"), link
            assert branch == "main", link
            assert (ROOT / path).is_file(), link
    assert here == len(defined) + 1  # and the figure


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


def test_every_public_name_has_an_example_that_is_run():
    functions = inspect.getmembers(absgd_jax.losses, inspect.isfunction)
    losses = [name for name, _ in functions if not name.startswith("_")]
    assert losses == absgd_jax.losses.__all__
    public = [*absgd_jax.__all__, *(f"losses.{name}" for name in losses)]
    for name in {*public} - {"losses"}:
        documented = operator.attrgetter(name)(absgd_jax)
        assert doctest.DocTestParser().get_examples(documented.__doc__), name


def test_the_version_has_one_source():
    assert importlib.metadata.version("absgd-jax") == absgd_jax.__version__


def test_a_release_is_refused_unless_all_places_name_its_version(tmp_path):
    own = absgd_jax.__version__
    assert release_check.version() == own
    for name in ("pyproject.toml", "CHANGELOG.md", "absgd_jax", "conda"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (wrong,) = release_check.faults("v9.9.9", tmp_path)[:1]
    assert wrong == f"The tag is v9.9.9, and the version of the package is {own}."
    changes = tmp_path / "CHANGELOG.md"
    text = changes.read_text()
    changes.write_text(text.replace("## Unreleased", f"## {own}", 1))
    assert release_check.faults(f"v{own}", tmp_path) == [
        f'CHANGELOG.md has no section "## {own} (YYYY-MM-DD)".'
    ]
    changes.write_text(text.replace("## Unreleased", f"## {own} (2027-01-31)", 1))
    assert release_check.faults(f"v{own}", tmp_path) == []


def test_workflows_call_targets_that_exist_and_test_every_python():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pythons = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            pythons |= {*job.get("strategy", {}).get("matrix", {}).get("python", [])}
            for step in job["steps"]:
                words = step.get("run", "").split()
                assert not words or (words[0] == "make" and words[1] in targets), words
    names = " ".join(PROJECT["classifiers"])
    assert pythons == set(re.findall(r"Python :: (3\.\d+)", names))


def test_the_recipe_and_the_policy_name_the_oldest_versions():
    """Those that pyproject.toml declares, of Python, JAX and Optax."""
    lowest = [f"python {PROJECT['requires-python']}", *PROJECT["dependencies"]]
    pairs = [re.match(r"(\w+) ?>=(.+)", one).groups() for one in lowest]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    assert recipe["requirements"]["run"] == [f"{n} >={v}" for n, v in pairs]
    policy = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Python|JAX|Optax) \| (\S+) \|", policy, re.MULTILINE)
    assert [(name.lower(), version) for name, version in rows] == pairs
