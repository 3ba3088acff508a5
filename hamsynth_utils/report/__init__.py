"""The HTML report: pages, interactive parts, redaction."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "pages.datasheet": "share_alone",
    },
)
