"""XLM: train, evaluate and share language models that are not only left-to-right."""

from xlm.__about__ import __version__

__all__ = ["__version__"]
