"""The pages of `docs/`; `site_check.py` looks at the site that is built of them."""

import inspect
import pathlib
import re

import absgd_jax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("[!_]*/*.md")])
# Held to records by tests of their own, and as long as those are.
GENERATED = {"results.md", "untuned.md", "untuned_head.md", "after_first_stage.md"}
LONG = GENERATED | {"methods.md"}


def public_names():
    losses = inspect.getmembers(absgd_jax.losses, inspect.isfunction)
    of_losses = [f"losses.{name}" for name, _ in losses if not name.startswith("_")]
    return sorted([*absgd_jax.__all__, *of_losses])


def test_the_reference_lists_exactly_the_public_names():
    entry = re.compile(r"^\.\. auto\w+:: absgd_jax\.([\w.]+)", re.M)
    pages = (DOCS / "api").glob("*.md")
    listed = [name for page in pages for name in entry.findall(page.read_text("utf-8"))]
    assert sorted(listed) == public_names()


def test_what_a_page_links_outside_of_docs_exists_and_defines_the_name():
    """Sphinx looks after links between pages; these leave them, for code and tests."""
    checked = 0
    for page in PAGES:
        text = page.read_text("utf-8")
        links = re.findall(r"\[([^\]]+)\]\((\.\./[^)# ]+)( \"\w+\")?", text)
        for label, target, title in links:
            path = (page.parent / target).resolve()
            assert path.exists(), (page.name, target)
            name = re.fullmatch(r"`(\w+)`", label) or re.fullmatch(r' "(\w+)"', title)
            if name and path.suffix == ".py":
                definition = rf"^(def|class) {name[1]}\(|^{name[1]}\b.* = "
                code = path.read_text("utf-8")
                assert re.search(definition, code, re.M), (page.name, name[1], target)
                checked += 1
    assert checked > 60


def test_a_page_can_be_read_in_one_sitting():
    lengths = {
        page.relative_to(DOCS).as_posix(): len(page.read_text("utf-8").splitlines())
        for page in PAGES
    }
    assert {page for page, lines in lengths.items() if lines > 200} <= LONG


def test_differences_quoted_in_the_text_are_those_of_a_generated_or_measured_page():
    """A mean and its error; a page's own tables, and the README's, are sources too."""
    quoted = re.compile(r"\d+\.\d+ ± \d+\.\d+")
    sources = [DOCS / name for name in GENERATED] + [*(DOCS / "measured").glob("*.md")]
    known = {n for page in sources for n in quoted.findall(page.read_text("utf-8"))}
    readme = (ROOT / "README.md").read_text("utf-8")
    known.update(quoted.findall(_tables(readme)))
    checked = 0
    for page in [ROOT / "README.md", *PAGES]:
        text = page.read_text("utf-8")
        own = set(quoted.findall(_tables(text))) if page.stem == "wrong_labels" else ()
        for number in quoted.findall(text):
            assert number in known or number in own, (page.name, number)
            checked += 1
    assert checked > 100


def _tables(text):
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))
