"""Loads a trained model from a path, generates texts and scores them."""
