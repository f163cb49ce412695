"""Hydra configs that ship with xlm-mdlm."""
