"""Measures with intervals: classification, fidelity, fairness, privacy."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bootstrap": "ClusterBootstrap Interval factorize_lesions lesion_mean percentile_interval",
        "features": "DISTANCE_NAME cached_features",
        "fidelity": "frechet_distance kernel_distance",
        "privacy.patient_inference": "withhold_siblings",
        "ranking": "auroc precision_band",
    },
)
