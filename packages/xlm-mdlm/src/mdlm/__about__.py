"""Version of this distribution, read by the build and by `xlm models`."""

__version__ = "1.0.0"
