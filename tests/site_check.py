"""The site that `make docs` builds, which then runs these tests."""

import html.parser
import os
import re

import pytest

from tests.test_docs import DOCS, ROOT, public_names


@pytest.fixture(scope="module")
def site():
    """The site that `make docs` has built."""
    return ROOT / os.environ["ABSGD_SITE"]


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
