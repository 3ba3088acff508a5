"""Every figure of the book: one theme, one colour per arm and per class, readable at 700 pixels.

Each function returns a figure of its own, and leaves matplotlib's settings and pyplot's state as
they were.
"""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bars": "bars_with_intervals class_counts group_bars mixture_panels",
        "curves": "distance_curves gain_curves loss_curves precision_recall_panels spectrum_curves",
        "histograms": "histogram_pair threshold_panels",
        "images": "class_grid image_grid image_rows overlay",
        "intervals": "class_panels draw_estimates estimate_rows not_measured",
        "matrices": "confusion_matrix confusion_panels",
        "style": "ARM_COLOURS ARM_NAMES DASHED FAINT GREY INK PALETTE THEME WIDTH "
        "BookFigure arm_names class_colours new_axes styled",
        "trainings": "training_panels",
    },
)
