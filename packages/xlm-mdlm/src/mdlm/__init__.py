"""MDLM: the masked diffusion language model as a package for XLM."""

from mdlm.__about__ import __version__

__all__ = ["__version__"]
