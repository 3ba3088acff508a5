"""Measures with intervals: classification, fidelity, fairness, privacy."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bootstrap": "ClusterBootstrap Interval factorize_lesions lesion_mean percentile_interval",
        "class_consistency": "fit_probe probe_predictions",
        "classification": "PROBABILITIES align_table bootstrap_scores confident_mistakes "
        "confusion per_class read_predictions scores",
        "comparison": "LEAK_COLUMNS SplitPredictions compare_splits minority_statistics",
        "fairness": "ATTRIBUTES EVERYBODY NOT_AVAILABLE age_band chance_gaps "
        "gap_changes gap_table group_scores groups_of largest_gaps",
        "features": "DISTANCE_NAME KERNEL_NAME cached_features extract load_extractor preferred_extractor",
        "fidelity": "Measure distance_with_interval frechet_distance kernel_distance power_ratio precision_recall real_baseline",
        "privacy.membership_inference": "MEMBERSHIP_STATISTIC difficulty_calibrated guess_members "
        "membership_attack per_image_losses",
        "privacy.memorization": "PRIVACY_COLUMNS assign_cells authenticity data_copying neighbour_ratio neighbours",
        "privacy.nearest_neighbours": "near_duplicate_rate nearest_aligned nearest_distances",
        "privacy.patient_inference": "withhold_siblings",
        "ranking": "auroc precision_band",
        "skin_tone": "SKIN_TONE_METHODS agreement category lab skin_angles typology_angle",
    },
)
