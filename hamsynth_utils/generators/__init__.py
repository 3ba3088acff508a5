"""Class-conditional generators behind one interface, and sampling from them."""

from hamsynth_utils.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "autoencoder": "Autoencoder",
        "base": "seeded_noise",
        "critic": "FINITE_DIFFERENCE_SIGMA",
        "diffusion": "Diffusion",
        "flow": "Flow TIME_SCALE",
        "representation": "PixelUnshuffle",
        "loading": "build_generator checkpoint_metadata load_generator",
        "perceptual": "feature_maps perceptual_distance",
        "textbook_vae": (
            "TextbookVAE gaussian_negative_log_likelihood kl_to_standard_normal private_vae"
        ),
    },
)
