"""The chapters of a run, but for the classifier's, which is executed once per arm and seed."""

CHAPTERS = (
    "01_dataset",
    "02_vae",
    "03_gan",
    "04_diffusion",
    "05_flow",
    "07_controls",
    "08_fidelity",
    "09_evaluation",
    "10_privacy",
    "11_guarantee",
    "12_fairness",
    "13_explanation",
    "14_release",
    "15_claims",
)
