"""Checks the artefacts in dist/ as `make release-check` does: `release_check.py TAG`.

With a tag, it must name the version, and the changelog must have a dated section for
it. Then each artefact is installed in an environment of its own, with the requirements
that it declares, and the examples of all its docstrings are run there.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import venv

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = """
import doctest, importlib, pkgutil, absgd_jax
names = [m.name for m in pkgutil.iter_modules(absgd_jax.__path__, "absgd_jax.")]
results = [doctest.testmod(importlib.import_module(n)) for n in ["absgd_jax", *names]]
failed, run = (sum(counts) for counts in zip(*results))
print(f"{absgd_jax.__version__}: {run} examples, {failed} failed")
raise SystemExit(failed > 0 or run < 50)
"""


def version(root: pathlib.Path = ROOT) -> str:
    """The version in the package, from the place that `pyproject.toml` names."""
    dynamic = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert dynamic["dynamic"]["version"] == {"attr": "absgd_jax.__version__"}
    text = (root / "absgd_jax" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found


def faults(tag: str, root: pathlib.Path = ROOT) -> list[str]:
    """What must change before this tag is pushed."""
    found, own = [], version(root)
    if tag != f"v{own}":
        found.append(f"The tag is {tag}, and the version of the package is {own}.")
    recipe = (root / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    if f'version: "{own}"' not in recipe:
        found.append(f"conda/recipe.yaml is not of version {own}.")
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(own)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.M):
        found.append(f'CHANGELOG.md has no section "## {own} (YYYY-MM-DD)".')
    return found


def installed(artefact: pathlib.Path) -> None:
    """Installs an artefact in a new environment, and runs its examples there."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = pathlib.Path(folder, "bin", "python")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *install, artefact.resolve()], check=True, cwd=folder)
        subprocess.run([python, "-c", EXAMPLES], check=True, cwd=folder)


def main(tag: str = "") -> int:
    """Returns 0 if the artefacts can be published."""
    found = faults(tag) if tag else []
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    artefacts = sorted((ROOT / "dist").iterdir())
    endings = [f"{version()}{end}" for end in ("-py3-none-any.whl", ".tar.gz")]
    assert [a.name.removeprefix("absgd_jax-") for a in artefacts] == endings, artefacts
    for artefact in artefacts:
        print(artefact.name, flush=True)
        installed(artefact)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
