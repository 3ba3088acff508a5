"""Class-conditional generators behind one interface, and sampling from them."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "autoencoder.critic": "FINITE_DIFFERENCE_SIGMA",
        "autoencoder.model": "Autoencoder",
        "autoencoder.perceptual": "feature_maps perceptual_distance",
        "autoencoder.representation": "PixelUnshuffle",
        "base": "seeded_noise",
        "diffusion": "Diffusion",
        "flow": "Flow TIME_SCALE",
        "loading": "build_generator checkpoint_metadata load_generator",
        "textbook_vae": (
            "TextbookVAE gaussian_negative_log_likelihood kl_to_standard_normal private_vae"
        ),
    },
)
