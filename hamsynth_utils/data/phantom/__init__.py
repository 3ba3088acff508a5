"""The phantom: a procedural dermoscopy data set, deterministic and clearly not skin."""
