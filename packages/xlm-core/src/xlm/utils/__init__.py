"""Helpers without a home of their own; each module is imported by its name."""
