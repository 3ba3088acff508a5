"""The theme of the figures, their colours, and the figure on which every plot is drawn.

The colours extend those of Okabe and Ito (2008, "Color Universal Design"), which stay different
under the common kinds of colour blindness.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import ARM_NAMES, GENERATORS

__all__ = ["ARM_COLOURS", "ARM_NAMES", "THEME", "BookFigure", "class_colours", "styled"]

INK, GREY, FAINT = "#333333", "#7F7F7F", "#D9D9D9"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#333333")

_GENERATOR_SHADES = (
    *("#E69F00", "#0072B2", "#009E73", "#56B4E9"),
    *("#8C564B", "#882255", "#9A9A00", "#5D4FB3"),
)
_COLOUR_OF_GENERATOR = dict(zip(GENERATORS, itertools.cycle(_GENERATOR_SHADES), strict=False))

ARM_COLOURS: dict[str, str] = {
    "real": INK,
    "weighted": "#999999",
    "oversample": "#CC79A7",
    "augment": "#D55E00",
    **_COLOUR_OF_GENERATOR,
    **{
        f"{name}_only": seaborn.blend_palette([colour, "white"], 3).as_hex()[1]
        for name, colour in _COLOUR_OF_GENERATOR.items()
    },
}
"""By arm. A generator's colour follows from its place in the registry; `_only` arms are lighter."""

_CLASS_SHADES = ("#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#0072B2", "#009E73")

WIDTH = 7.0
"""Width of a figure in inches. One inch is 100 pixels on a page of the book."""

THEME: Any = {
    **seaborn.axes_style("ticks"),
    **seaborn.plotting_context("notebook"),
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "figure.dpi": 130,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
"""seaborn's style `ticks` in the book's colours and sizes, as settings of matplotlib."""

DASHED: dict[str, Any] = {"linestyle": (0, (4, 3)), "linewidth": 1.5}

OFFSET: dict[str, Any] = {"textcoords": "offset points"}
"""For a text some points beside its place."""

P = ParamSpec("P")
R = TypeVar("R")


class BookFigure(Figure):
    """A figure outside pyplot. A notebook shows it once, whatever its plotting backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def arm_colours(arms: Iterable[str]) -> list[str]:
    """The colour of each arm; grey for a name that is no arm."""
    return [ARM_COLOURS.get(arm, GREY) for arm in arms]


def arm_names(arms: Iterable[str]) -> list[str]:
    """The written name of each arm; a name that is no arm stays as it is."""
    return [ARM_NAMES.get(arm, arm) for arm in arms]


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """One colour per class, which follows from its place in the list.

    Args:
        classes: names of classes, such as `LesionSet.classes`.

    Returns:
        Colour by name: seaborn's palette `husl` for more than seven classes.
    """
    palette = _CLASS_SHADES if len(classes) <= len(_CLASS_SHADES) else "husl"
    colours = seaborn.color_palette(palette, len(classes)).as_hex()
    return dict(zip(classes, colours, strict=True))


def for_text(colour: str) -> str:
    """A darker shade of a colour, in which text is readable on white."""
    return seaborn.blend_palette([colour, "black"], 4).as_hex()[1]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function under the book's theme, and restore matplotlib's settings afterwards.

    Args:
        draw: a function that draws.

    Returns:
        The function, which draws with `THEME`.
    """

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        """Draw in the book's theme."""
        with matplotlib.rc_context(THEME):
            return draw(*args, **kwargs)

    return inside


def new_axes(
    height: float, rows: int = 1, columns: int = 1, **layout: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of the book's width and its axes.

    Args:
        height: of the figure, in inches.
        rows, columns: number of axes in each direction.
        layout: further arguments of `matplotlib.figure.Figure.subplots`.

    Returns:
        The figure, and its axes row by row.
    """
    figure = BookFigure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **layout).flat)
