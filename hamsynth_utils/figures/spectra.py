"""Detail at each scale: power over frequency."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hamsynth_utils.errors import InputError
from hamsynth_utils.figures.charts import name_ends, plain_log
from hamsynth_utils.figures.style import ARM_COLOURS, ARM_NAMES, DASHED, GREY, INK, stacked_axes, styled


@styled
def spectrum_curves(ratios: pd.DataFrame) -> Figure:
    """Power as a share of real images', on a logarithmic axis, with bands; a dashed line at one.

    ratios: the rows of `metrics.spectra.power_ratio` with a number in cycles, and a column `images`: the
    name of a generator, or "floor" for other real images, which are grey. Raises InputError for missing
    columns, no rows, or a share that is not positive.
    """
    needed = ["images", "cycles", "value", "low", "high"]
    if absent := [column for column in needed if column not in ratios]:
        raise InputError(f"ratios has no column {absent}; it has {list(ratios.columns)}")
    if ratios.empty or not (ratios["low"] > 0).all():
        raise InputError("give at least one row, and shares above zero only: the axis is logarithmic")
    figure, (axes,) = stacked_axes(4.2)
    axes.axhline(1, color=INK, **DASHED)
    axes.set_yscale("log")
    ends = []
    for name, line in ratios.groupby("images", sort=False):
        line, colour = line.sort_values("cycles").astype({"cycles": float}), ARM_COLOURS.get(str(name), GREY)
        axes.fill_between(line["cycles"], line["low"], line["high"], color=colour, alpha=0.25, linewidth=0)
        axes.plot(line["cycles"], line["value"], color=colour)
        title = "other real images" if name == "floor" else ARM_NAMES.get(str(name), str(name))
        ends.append((float(line["value"].iloc[-1]), title, colour))
    axes.set(xlabel="cycles an image, coarse to fine", ylabel="power, share of real images'")
    axes.grid(axis="y")
    plain_log(axes.yaxis)
    name_ends(axes, ends)
    return figure
