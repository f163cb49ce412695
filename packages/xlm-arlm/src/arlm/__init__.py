"""ARLM: the left-to-right language model as a package for XLM."""

from arlm.__about__ import __version__

__all__ = ["__version__"]
