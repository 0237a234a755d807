"""The pages of `docs/`, and the site that `make docs` builds of them."""

import html.parser
import inspect
import os
import pathlib
import re

import pytest

import absgd_jax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("[!_]*/*.md")])
# Held to records by tests of their own, and as long as those are.
GENERATED = {"results.md", "untuned.md", "untuned_head.md", "after_first_stage.md"}
LONG = GENERATED | {"methods.md"}


@pytest.fixture(scope="module")
def site():
    """The site that `make docs` has built."""
    if "ABSGD_SITE" not in os.environ:
        pytest.skip("`make docs` builds the site and runs these")
    return ROOT / os.environ["ABSGD_SITE"]


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


class _Requests(html.parser.HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        if tag == "link" and of.get("rel") in ("canonical", "index", "next", "prev"):
            return
        if tag in ("a", "form"):
            return
        for name in ("src", "href", "data", "poster"):
            self.found.append(of.get(name) or "")
        self.found += (of.get("srcset") or "").split(",")


def requests(page):
    parser = _Requests()
    parser.feed(page)
    styles = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", page)
    return [link.strip() for link in (*parser.found, *styles) if link.strip()]


def elsewhere(links):
    return [link for link in links if re.match(r"(https?:)?//", link)]


def test_a_request_elsewhere_is_found():
    page = """<a href="https://a.org">left alone</a><img src="here.png">
    <script src="//b.org/x.js"></script><link rel="stylesheet" href="https://c.org/s">
    <style>@font-face { src: url(https://d.org/f.woff) }</style>"""
    found = elsewhere(requests(page))
    assert found == ["//b.org/x.js", "https://c.org/s", "https://d.org/f.woff"]


def test_the_site_asks_nothing_of_other_hosts(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 40
    for page in pages:
        assert not elsewhere(requests(page.read_text("utf-8"))), page


def test_formulas_are_set_by_the_sites_own_mathjax(site):
    page = (site / "theory.html").read_text("utf-8")
    (script,) = re.findall(r'<script[^>]* src="(_static/tex-svg\.js[^"]*)"', page)
    assert (site / script.partition("?")[0]).stat().st_size > 1_000_000


def test_every_public_name_has_its_place_and_its_example(site):
    for name in public_names():
        entry = f'id="absgd_jax.{name}"'
        module = f'id="module-absgd_jax.{name}"'
        pages = [p.read_text("utf-8") for p in (site / "api").glob("*.html")]
        (page,) = [text for text in pages if entry in text or module in text]
        if entry in page:
            after = page.partition(entry)[2].partition("<section")[0]
            assert "&gt;&gt;&gt;" in after, name


def test_notebooks_are_executed(site):
    for notebook in (DOCS / "notebooks").glob("*.md"):
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")
        assert "cell_output" in page, notebook
        assert 'class="traceback' not in page, notebook
