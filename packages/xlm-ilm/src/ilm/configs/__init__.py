"""Hydra configs that ship with xlm-ilm."""
