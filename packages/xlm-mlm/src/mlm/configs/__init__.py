"""Hydra configs that ship with xlm-mlm."""
