"""What happens around a training step: optimizers, averages, checkpoints, guards, and what a person sees."""
