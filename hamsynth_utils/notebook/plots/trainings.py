"""Measures of several trainings of each generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure

from hamsynth_utils.notebook.plots.intervals import draw_estimates, require_rows
from hamsynth_utils.notebook.plots.style import (
    FAINT,
    GREY,
    arm_colours,
    arm_names,
    new_axes,
    styled,
)

MOST_IN_A_ROW = 3
"""Panels that fit side by side; more panels stand in two columns."""


@styled
def training_panels(rows: pd.DataFrame) -> Figure:
    """One panel per measure: a row per generator with a point per training.

    If there are several seeds, a faint line joins the points of each. The grey line stands at the
    value of real images.

    Args:
        rows: columns measure, arm, seed, value, baseline (of real images, one number per measure).
            Panels and arms keep their order.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, or no rows.
    """
    rows = rows.assign(low=np.nan, high=np.nan)  # a point is one training and has no interval
    require_rows(rows, "measure", "arm", "seed", "value", "baseline")
    arms, measures = list(rows["arm"].unique()), list(rows["measure"].unique())
    rows["place"] = rows["arm"].map(arms.index)
    columns = len(measures) if len(measures) <= MOST_IN_A_ROW else 2
    lines = -(-len(measures) // columns)
    height = 0.4 + lines * (0.8 + 0.38 * len(arms))
    figure, panels = new_axes(height, lines, columns, sharey=True)
    for axes in panels[len(measures) :]:
        axes.set_visible(False)
    for axes, measure in zip(panels, measures, strict=False):
        part = rows[rows["measure"] == measure]
        baseline = float(part["baseline"].iloc[0])
        axes.axvline(baseline, color=GREY)
        if part["seed"].nunique() > 1:
            same_seed = part.assign(group=part["seed"], colour=FAINT)
            draw_estimates(axes, same_seed, "place", so.Line(linewidth=1.2), orient="y")
        points = part.assign(colour=arm_colours(part["arm"]))
        draw_estimates(axes, points, "place", so.Dot(pointsize=7, alpha=0.85), orient="y")
        for drawn in axes.collections:
            drawn.set_zorder(3)  # above the lines, whatever the order of drawing
        axes.set_title(measure)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12)
        left = baseline < np.mean(axes.get_xlim())
        look: Any = {"ha": "left" if left else "right", "color": GREY, "fontsize": 9}
        text = " real images" if left else "real images "
        axes.text(baseline, len(arms) - 0.25, text, va="center", **look)
        axes.grid(axis="x")
        if axes not in panels[::columns]:
            axes.tick_params(axis="y", labelleft=False)
    panels[0].set_yticks(range(len(arms)), arm_names(arms))
    panels[0].set_ylim(len(arms), -0.5)
    return figure
