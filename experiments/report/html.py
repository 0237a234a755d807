"""A report as one HTML page, which needs no other file."""

import base64
import html
import pathlib
import struct

from markdown_it import MarkdownIt
from markdown_it.token import Token

PAGE = "report.html"

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --line: #d0d4d9; --soft: #f4f5f7; --small: #555c66;
}}
@media (prefers-color-scheme: dark) {{
  :root {{ --line: #454b54; --soft: #23272e; --small: #a8b0bb; }}
}}
body {{
  max-width: 70rem; margin: 0 auto; padding: 1rem 1rem 4rem;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 2.5rem 0 0.75rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 0.5rem; }}
nav {{ padding: 0.25rem 1rem; background: var(--soft); border-radius: 0.4rem; }}
.table {{ overflow-x: auto; margin: 1rem 0; }}
table {{
  border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums;
}}
th, td {{
  padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap;
}}
th {{ vertical-align: bottom; white-space: normal; background: var(--soft); }}
th:first-child, td:first-child {{
  position: sticky; left: 0; min-width: min(12rem, 30vw); max-width: 18rem;
  text-align: left; white-space: normal;
}}
td:first-child {{ background: Canvas; }}
pre {{ overflow-x: auto; }}
ul {{ padding-left: 1.2rem; }}
li, figcaption {{ color: var(--small); font-size: 0.9rem; }}
nav li {{ list-style: none; }}
figure {{ margin: 1.5rem 0; }}
.image {{ overflow-x: auto; }}
img {{ max-width: 100%; max-height: 34rem; background: white; border-radius: 0.4rem; }}
@media (max-width: 40rem) {{ .wide img {{ max-width: none; width: 45rem; }} }}
</style>
</head>
<body>
"""


def parser(*more: str) -> MarkdownIt:
    """A parser and HTML renderer of the Markdown of reports.

    It knows only what they consist of: a class that is called *a* or <b> stays what it
    is. `more` names rules of markdown-it that are enabled too, such as `backticks`.
    """
    return MarkdownIt("zero").enable(["heading", "image", "list", "table", *more])


def page(report: str, folder: pathlib.Path, *more: str) -> str:
    """Renders a report, with its figures and style inside: HTML that loads nothing.

    Its figures are in `folder`; `more` is as in `parser`.
    """
    renderer = parser(*more)
    tokens = renderer.parse(report)
    levels = [token.tag for token in tokens if token.type == "heading_open"]
    sections = "h1" if levels.count("h1") > 1 else "h2"
    title, headings = "", []
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if [child.type for child in token.children or ()] == ["image"]:
            before.hidden = after.hidden = True  # a figure does not go into a paragraph
        if before.type == "heading_open" and before.tag == "h1":
            title = title or token.content
        if before.type == "heading_open" and before.tag == sections:
            headings.append(token.content)
            before.attrSet("id", f"section-{len(headings)}")

    def figure(tokens: list[Token], index: int, *_) -> str:
        image = tokens[index]
        data = (folder / str(image.attrs["src"])).read_bytes()
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        text = html.escape(image.content)
        said = renderer.renderer.renderInline(image.children, renderer.options, {})
        width, height = struct.unpack(">II", data[16:24])  # as every PNG begins
        # On a telephone, panels side by side would be too small to read.
        kind = "image wide" if width > 1.6 * height else "image"
        return (
            f'<figure><div class="{kind}"><img src="{source}" alt="{text}"></div>\n'
            f"<figcaption>{said}</figcaption></figure>\n"
        )

    renderer.renderer.rules |= {
        "image": figure,
        # A table that is wider than a telephone scrolls by itself.
        "table_open": lambda *_: '<div class="table"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
    }
    body = renderer.renderer.render(tokens, renderer.options, {})
    links = "".join(
        f'<li><a href="#section-{index}">{html.escape(heading)}</a></li>\n'
        for index, heading in enumerate(headings, start=1)
    )
    contents = f"<nav><ul>\n{links}</ul></nav>\n" if len(headings) > 1 else ""
    head = _HEAD.format(title=html.escape(title))
    return f"{head}{contents}{body}</body>\n</html>\n"
