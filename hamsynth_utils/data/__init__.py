"""Images with their labels and tables: reading, drawing, splitting, augmenting."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "augmentation": "augment flip_and_turn views",
        "dataset_info": "HAM10000 PHANTOM ClassList DatasetInfo describe_data",
        "duplicates": "SAME_PHOTO",
        "external": "read_external",
        "ham10000": "dataset_name read_ham10000",
        "lesion_set": "LesionSet labels_of to_uint8 to_unit_range",
        "files.masks": "lesion_masks",
        "split": "leaked leaked_share",
        "synthetic": "SUMS read_manifest read_synthetic",
    },
)
