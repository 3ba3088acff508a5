"""The book's one style, its colours, and the figure that every plot is drawn on."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.data.lesion_set import CLASSES

INK, GREY, FAINT = "#333333", "#7F7F7F", "#D9D9D9"


PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#333333")


GENERATOR_COLOURS = (
    "#E69F00",
    "#0072B2",
    "#009E73",
    "#56B4E9",
    "#8C564B",
    "#882255",
    "#9A9A00",
    "#5D4FB3",
)
"""By the generators' places in the registry; where there are more of them, the colours begin again."""


def lightened(colour: str) -> str:
    """Half way from `#RRGGBB` to white."""
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 256) // 2:02X}" for i in (1, 3, 5))


_SHADES = dict(zip(GENERATORS, itertools.cycle(GENERATOR_COLOURS), strict=False))


ARM_COLOURS = {
    "real": INK,
    "weighted": "#999999",
    "oversample": "#CC79A7",
    "augment": "#D55E00",
    **_SHADES,
    **{f"{name}_only": lightened(colour) for name, colour in _SHADES.items()},
}


CLASS_COLOURS = dict(
    zip(
        CLASSES,
        ("#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#0072B2", "#009E73"),
        strict=True,
    )
)


WIDTH = 7.0
"""Inches; at book width an inch is 100 pixels."""


STYLE: Any = {
    "figure.dpi": 130,
    "figure.facecolor": "white",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "lines.linewidth": 2.0,
}


DASHED: Any = {"linestyle": (0, (4, 3)), "linewidth": 1.5}


P = ParamSpec("P")


R = TypeVar("R")


class BookFigure(Figure):
    """A Figure outside pyplot, so a notebook shows it once, by itself, whatever the backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run `draw` under the book's style, and only `draw`."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def stacked_axes(
    height: float, rows: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    figure = BookFigure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=ratios)[:, 0]
    return figure, list(axes)
