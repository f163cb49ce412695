"""Hydra configs that ship with xlm-arlm."""
