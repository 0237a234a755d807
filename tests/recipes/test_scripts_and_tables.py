"""Every recipe as a script, and the tables of `docs/recipes/README.md`."""

import re

import pytest

from tests.recipes import checks, program

ROW = re.compile(r"^\| \[(\w+)\]\(\1\.py\) \| .+ \| (\d+) \| (\d+) \| .+ \|$", re.M)


def rows():
    readme = (program.FOLDER / "README.md").read_text(encoding="utf-8")
    found = ROW.findall(readme)
    assert len(found) == readme.count("\n| [")  # every row can be read
    return {name: (int(changed), int(state)) for name, changed, state in found}


def state_lines(name):
    source = (program.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    marks = filter(None, map(program.MARK.match, source.splitlines()))
    return len([mark for mark in marks if mark["state"]])


def test_every_recipe_is_listed_and_every_listed_recipe_exists():
    assert set(rows()) == {path.stem for path in program.FOLDER.glob("*.py")}


def test_the_counts_are_those_of_the_programs_and_never_more_than_four():
    counted = {
        name: (program.changed_lines(name), state_lines(name)) for name in rows()
    }
    assert rows() == counted
    assert all(1 <= changed <= 4 for changed, _ in counted.values())


def test_every_mark_can_be_read():
    """A comment that looks like a mark is one, or its line would stay as it is."""
    for name in rows():
        source = (program.FOLDER / f"{name}.py").read_text(encoding="utf-8")
        for line in source.splitlines():
            if re.search(r"# (was|new)\b", line):
                assert program.MARK.match(line), line


# `linen_pmap` is run on eight devices.
@pytest.mark.parametrize("name", sorted(set(rows()) - {"linen_pmap"}))
def test_as_a_script_it_trains(name, capsys):
    checks.runs(name, capsys)
