"""Hydra configs that ship with xlm-core."""
