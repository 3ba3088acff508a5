"""Release criteria, data cards, export and verification of synthetic sets."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "criteria": "evaluate_criteria read_limits",
        "verify": "find_alterations",
    },
)
