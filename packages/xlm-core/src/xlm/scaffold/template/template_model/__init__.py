"""template_model: a language model as a package for XLM."""

__version__ = "0.1.0"
