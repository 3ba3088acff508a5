"""Every plot of the book: one style, one colour per arm and per class, readable at 700 pixels.

Each function returns a figure of its own and leaves matplotlib's settings and pyplot's state as they were.
Colours are Okabe & Ito's, told apart under every common kind of colour blindness.
"""

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.notebook.plots.charts import (
    bars_with_intervals,
    class_counts,
    confusion_matrix,
    confusion_panels,
    group_bars,
    histogram_pair,
    loss_curves,
)
from hamsynth_utils.notebook.plots.curves import distance_curves, spectrum_curves
from hamsynth_utils.notebook.plots.images import class_grid, image_grid, image_rows, overlay
from hamsynth_utils.notebook.plots.intervals import (
    class_panels,
    estimate_rows,
    gain_curves,
    precision_recall_panels,
)
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    CLASS_COLOURS,
    FAINT,
    GREY,
    INK,
    PALETTE,
    STYLE,
    WIDTH,
    BookFigure,
    styled,
)
from hamsynth_utils.notebook.plots.thresholds import mixture_panels, threshold_panels

__all__ = [
    "ARM_COLOURS",
    "ARM_NAMES",
    "CLASS_COLOURS",
    "FAINT",
    "GREY",
    "INK",
    "PALETTE",
    "STYLE",
    "WIDTH",
    "BookFigure",
    "bars_with_intervals",
    "class_counts",
    "class_grid",
    "class_panels",
    "confusion_matrix",
    "confusion_panels",
    "distance_curves",
    "estimate_rows",
    "gain_curves",
    "group_bars",
    "histogram_pair",
    "image_grid",
    "image_rows",
    "loss_curves",
    "mixture_panels",
    "overlay",
    "precision_recall_panels",
    "spectrum_curves",
    "styled",
    "threshold_panels",
]
