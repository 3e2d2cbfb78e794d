"""Training: the trainer, losses, optimizers, state and checkpoints."""
