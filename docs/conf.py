"""The documentation site: `make docs` builds it, without a network."""

import importlib.util
import inspect
import os
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import absgd_jax  # noqa: E402
from absgd_jax._radius import DEFAULT  # noqa: E402

project = "absgd_jax"
author = copyright = "The absgd_jax authors"
version = release = absgd_jax.__version__
HOME = "https://github.com/absgd-jax/absgd-jax"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = [
    "_build",
    "upstream",
    "conf.py",
    "percent.py",
    "**/.ipynb_checkpoints",
]
nitpicky = True
# Types of JAX, Optax, NumPy and Python, whose pages are not read: the build needs no
# network.
nitpick_ignore_regex = [
    ("py:.*", r"(jax|optax|numpy|collections|typing|absgd_jax\._\w+)\..*"),
    (
        "py:class",
        r"(int|float|bool|str|tuple|dict|None|Any|Callable|Hashable|optional)",
    ),
]

# Pages are MyST; recipes are programs in the percent format, shown as they are written;
# notebooks are MyST too and are executed.
nb_custom_formats = {".py": "percent.reads"}
nb_execution_mode = "force"
nb_execution_excludepatterns = ["recipes/*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# Compiling is most of what the notebooks cost, and their programs run for a second.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
nb_ipywidgets_js = {}  # they would come from elsewhere
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"  # the text has shapes and units, which types have not
python_maximum_signature_line_length = 80
toc_object_entries = False
napoleon_numpy_docstring = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
pygments_style = "default"

html_theme = "sphinx_book_theme"
html_title = "absgd_jax"
html_baseurl = ""
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_css_files = ["site.css"]
html_theme_options = {
    "repository_url": HOME,
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": False,
    "use_edit_page_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}


def _mathjax() -> pathlib.Path:
    """The one file of MathJax that the site serves by itself, from a wheel."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("sphinx-mathjax-offline: pip install '.[docs]'")
    return pathlib.Path(spec.origin).parent / "static" / "mathjax" / "tex-svg.js"


html_static_path = ["_static", str(_mathjax())]
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

# Names in single backticks, in docstrings, that have an entry in the reference.
ENTRIES = {name: f"absgd_jax.{name}" for name in absgd_jax.__all__} | {
    f"losses.{name}": f"absgd_jax.losses.{name}"
    for name, _ in inspect.getmembers(absgd_jax.losses, inspect.isfunction)
    if not name.startswith("_")
}
CODE = re.compile(r"(?<![`:\w])`([^`]+)`(?![`_\w])(\)? {3,})?")
# [`function`](../file.py), or [file](../file.py "test").
SOURCE = re.compile(
    r"\[(`(?P<name>\w+)`|\w+)\]"
    r"\(\.\./(?P<path>[\w/]+\.py)( \"(?P<test>\w+)\")?\)"
)
# The blank line that ends the output of an example, for `doctest`.
EXAMPLE = re.compile(r"(```pycon\n(?:.*\n)*?)\n```")


def link_names(app, what, name, obj, options, lines) -> None:
    """Makes code of single backticks in docstrings, and links of public names."""

    def role(found: re.Match[str]) -> str:
        code = " ".join(found[1].split())
        if found[2]:  # a column of a table follows, which must stay where it is
            return f"``{code}``{found[2][:-2]}"
        entry = ENTRIES.get(code.removeprefix("absgd_jax."))
        return f":py:obj:`{code} <{entry}>`" if entry else f"``{code}``"

    lines[:] = CODE.sub(role, "\n".join(lines)).split("\n")


def default_by_its_name(app, what, name, obj, options, signature, returns):
    """Shows the default of `lam` as a user would write it, not as a tuple."""
    return signature and signature.replace(str(DEFAULT), "kl_radius(0.4)"), returns


def shape_after_text(app, what, name, obj, options, lines) -> None:
    """Puts `float32 []` behind an attribute's text: Napoleon takes it for a type."""
    if what == "attribute":
        found = re.fullmatch(r"((?:\w+ )?\[.*?\]): (.*)", " ".join(lines).strip())
        lines[:] = [f"{found[2]}; ``{found[1]}``", ""] if found else lines


def link_repository(app, docname, source) -> None:
    """Points links out of `docs/` at the repository, those of names at their line."""

    def line(found: re.Match[str]) -> str:
        name = found["test"] or found["name"]
        if name is None:
            return found[0]
        code = (ROOT / found["path"]).read_text(encoding="utf-8").splitlines()
        starts = (f"def {name}(", f"class {name}(", f"{name} =")
        (number,) = [n for n, text in enumerate(code, 1) if text.startswith(starts)]
        path = found["path"]
        return found[0].replace(path, f"{path}#L{number}")

    text = source[0].replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    text = EXAMPLE.sub(r"\1```", text)
    if docname == "recipes/README":
        text += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    if "/" not in docname:
        text = SOURCE.sub(line, text)
        text = text.replace("](../", f"]({HOME}/blob/main/")
    source[0] = text


def setup(app) -> None:
    """Connects the functions above."""
    app.connect("autodoc-process-docstring", shape_after_text, priority=100)
    app.connect("autodoc-process-docstring", link_names, priority=900)
    app.connect("autodoc-process-signature", default_by_its_name)
    app.connect("source-read", link_repository)
