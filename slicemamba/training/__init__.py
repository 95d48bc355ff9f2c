"""Training: the loop in plain torch, losses and optimiser."""
