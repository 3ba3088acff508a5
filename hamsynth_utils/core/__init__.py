"""Errors, files, settings and names that everything else builds on; imports no heavy library."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "arm_names": "ARMS CHEAP_ARMS GENERATORS generator_of other_split",
        "errors": "InputError NotMeasured measured not_measured",
        "files": "atomic_path write_owner_only",
        "paths": "RunPaths project_root",
        "weights": "sha256_of sha256_of_bytes",
    },
)
