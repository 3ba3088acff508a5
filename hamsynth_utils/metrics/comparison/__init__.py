"""Arms and generators compared, with intervals over lesions, images and trainings."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arm_estimates": "Estimate UPWARD_BIASED difference estimate estimates holm mcnemar_test "
        "unpaired_difference",
        "splits": "LEAK_COLUMNS SplitPredictions compare_splits",
        "trainings": "distance_difference paired_difference",
        "weighted_statistics": "SPECIFICITIES Statistic classification_score minority_statistics "
        "statistics",
    },
)
