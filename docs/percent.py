"""Reads the recipes, programs in the percent format, as pages of the site."""

import jupytext
import nbformat


def reads(text: str) -> nbformat.NotebookNode:
    """The cells of a program; code is highlighted as Python."""
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook
