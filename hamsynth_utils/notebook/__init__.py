"""What the notebooks show: plots, tables, interactive figures, checks of exercises."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "exercises": "self_check",
        "tables": "dash format_interval markdown_table measurement_table table",
        "widgets": "glue",
    },
)
