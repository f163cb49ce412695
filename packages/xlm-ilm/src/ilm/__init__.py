"""ILM: the insertion language model as a package for XLM."""

from ilm.__about__ import __version__

__all__ = ["__version__"]
