"""The shared autoencoder, the critic that it is trained against, and the cached latents."""
