"""The Vision Transformer: building, predicting, explaining."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention": "attention_maps",
        "pretrained": "build_classifier",
    },
)
