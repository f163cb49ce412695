"""Support for training steps: optimizers, averages, checkpoints, guards, and progress output."""
