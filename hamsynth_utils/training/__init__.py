"""One resumable training loop for every model, and its differentially private counterpart."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "dp_accounting": "Guarantee NO_BOUND epsilon_spent guarantee_of max_attack_auroc",
        "dp_sgd": "one_image_per_lesion private_optimizer private_step train_privately",
        "loop": "train",
        "module": "TrainableModule",
    },
)
