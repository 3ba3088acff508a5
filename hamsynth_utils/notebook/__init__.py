"""What the notebooks show: exercises, interactive figures, tables, plots."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "exercises": "self_check",
        "tables": "in_words table",
        "widgets": "glue",
    },
)
