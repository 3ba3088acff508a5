"""The Vision Transformer: building, predicting, explaining."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "attention": "ATTENTION_METHODS attention_gradients attention_maps attention_rollout patch_maps relevance",
        "pretrained": "build_classifier",
        "token_cache": "CachedTokenData cached_tokens",
    },
)
