"""Privacy attacks: nearest neighbours, memorization, membership and patient inference."""
