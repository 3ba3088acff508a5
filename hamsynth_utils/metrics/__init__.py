"""What is measured: fidelity, classification, privacy, fairness."""
