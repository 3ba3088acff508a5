"""A run and its stages: arms, classifiers, claims."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arms": "in_proportion top_up_counts training_set",
        "claims": "ESTIMATES read_claims read_estimates",
        "classifiers": "fine_tune",
        "run": "Run",
        "stages": "make_synthetic train_generator",
    },
)
