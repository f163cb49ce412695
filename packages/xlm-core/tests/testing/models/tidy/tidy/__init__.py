"""The smallest left-to-right model that has every property which the conformance kit checks."""

__version__ = "1.0.0"
