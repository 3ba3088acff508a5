"""Fairness: scores of patient groups, and the gaps between groups."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "gaps": "Gap chance_gaps gap_changes gap_table largest_gaps",
        "groups": "AGE_BANDS ATTRIBUTES EVERYBODY MEASURES MIN_GROUP_SIZE MISSING NOT_AVAILABLE "
        "age_band denominator_mask false_positive_rate group_masks group_scores recall restrict_to",
    },
)
