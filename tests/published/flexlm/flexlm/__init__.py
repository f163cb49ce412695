"""Masked diffusion of flexible length: an answer ends where the model writes EOS."""
