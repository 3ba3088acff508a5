"""One resumable training loop for every model, and its differentially private counterpart."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "loop": "train",
        "module": "TrainableModule",
    },
)
