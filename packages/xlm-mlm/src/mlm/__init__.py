"""MLM: the masked language model as a package for XLM."""

from mlm.__about__ import __version__

__all__ = ["__version__"]
