"""A run and its stages: arms, classifiers, claims."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arms": "class_weights first_of_each in_proportion ratio_counts top_up_counts training_set",
        "claims": "ESTIMATES LEAST_PASSES VERDICTS decide estimate_of ledger read_claims read_estimates",
        "classifiers": "ProbeJob features_of fine_tune jobs_of pretrained_vit run_probes",
        "external_test": "nearest_photos run_external_test shared_photos",
        "learning_curves": "HeldoutFrechet format_snapshot_distances sampling_curves snapshot_distances snapshot_samples",
        "run": "Run",
        "stages": "effective_settings flip_and_turn make_synthetic train_autoencoder train_generator",
    },
)
