"""The style of all figures: colours, sizes and legends."""

import contextlib
import pathlib
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#777777"
# Okabe and Ito's colours, which colour-blind readers distinguish, without their yellow,
# which is too light for a line. The first two are SGD's and ABSGD's in the demo.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# A legend with a title, in small print; and one of the classes.
LEGEND: dict[str, Any] = {"fontsize": 9.5, "title_fontsize": 9.5, "alignment": "left"}
OF_CLASSES = LEGEND | {"labelspacing": 0.25, "loc": "upper left"}

_STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.framealpha": 0.8,  # what is behind is not to be mixed up with the words
}


@contextlib.contextmanager
def saved(path: pathlib.Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """An empty figure; saved as a PNG when the context ends without an error.

    `size` is width and height in inches, of 150 dots each.
    """
    import matplotlib

    matplotlib.use("Agg")  # draws to a file, also where there is no screen
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=size, layout="constrained")
        try:
            yield figure
            figure.savefig(path, dpi=150, format="png")
        finally:
            plt.close(figure)


def colors(count: int) -> list[Any]:
    """Distinct colours for unordered categories."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return shades(count)


def shades(count: int) -> list[Any]:
    """Colours for ordered categories, from light to dark."""
    import matplotlib
    import numpy as np

    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1.0, count)))


def caption(sheet: "Figure", text: str) -> None:
    """A small line above everything: which run this is."""
    text = wrapped(text, inches=sheet.get_figwidth() - 0.4)
    sheet.suptitle(text, x=0.008, ha="left", fontsize=9.5, color="#555555")


def legend_below(sheet: "Figure", **kwargs: Any) -> None:
    """A legend in small print below everything; arguments of `Figure.legend`."""
    sheet.legend(loc="outside lower left", fontsize=9.5, **kwargs)


def wrapped(text: str, inches: float) -> str:
    """Small print broken into lines that are not wider than that."""
    return textwrap.fill(text, max(20, int(12.5 * inches)))
