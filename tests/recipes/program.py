"""Reads the recipes of `docs/recipes`: as they stand, and without attention.

A line of a recipe that attention changes ends in `# was: LINE`, the line of the
ordinary program; one that it adds ends in `# new`. Lines that only carry attention's
state end in `# was (state): LINE` or `# new (state)`.
"""

import ast
import functools
import importlib.util
import pathlib
import re
import sys
import types

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "recipes"
MARK = re.compile(
    r"^(?P<indent>\s*)(?P<code>[^#\s].*?)\s+# "
    r"(?:new|(?P<was>was))(?P<state> \(state\))?(?(was): (?P<line>.*))$"
)


def load(name, lam=None):
    """A recipe as a module.

    Args:
      name: of the recipe, without `.py`.
      lam: what to put in place of the one argument `lam=` of the recipe, a number or
        an expression; None for the recipe's own, which is loaded once and keeps what
        its step has compiled.
    """
    if lam is None:
        return _as_it_stands(name)
    return _module(f"recipe_{name}", _with_lam(_source(name), lam))


@functools.cache
def _as_it_stands(name):
    return _module(f"recipe_{name}", _source(name))


def ordinary(name):
    """The program that the recipe was made from, as a module: no attention in it."""
    lines = []
    for line in _source(name).splitlines():
        mark = MARK.match(line)
        if mark is None:
            lines.append(line)
        elif mark["was"]:
            lines.append(mark["indent"] + mark["line"])
    code = "\n".join(lines) + "\n"
    tree = ast.parse(code)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "absgd_jax" not in names, f"attention is left in the ordinary {name}"
    return _module(f"ordinary_{name}", code)


def changed_lines(name):
    """How many lines change or are added, beside imports and attention's state."""
    marks = filter(None, map(MARK.match, _source(name).splitlines()))
    changed = [m for m in marks if not m["state"]]
    return len([m for m in changed if not re.match(r"(import|from) ", m["code"])])


def _source(name):
    # `python docs/recipes/NAME.py` puts its folder first on the path.
    assert importlib.util.find_spec(name) is None, f"{name}.py hides a package"
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def _with_lam(source, lam):
    keywords = [k for k in ast.walk(ast.parse(source)) if isinstance(k, ast.keyword)]
    (given,) = [k.value for k in keywords if k.arg == "lam"]
    assert given.lineno == given.end_lineno
    lines = source.splitlines(keepends=True)
    line = lines[given.lineno - 1].encode()
    before, after = line[: given.col_offset], line[given.end_col_offset :]
    value = lam if isinstance(lam, str) else f"float('{lam}')"
    lines[given.lineno - 1] = f"{before.decode()}{value}{after.decode()}"
    return "".join(lines)


def _module(name, source):
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look for their module there
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module
