"""Installs the slot model."""

from setuptools import setup

setup(
    name="slotlm",
    version="0.1.0",
    packages=["slotlm"],
    package_dir={"slotlm": "."},
    package_data={"slotlm": ["configs/**/*.yaml", "configs/**/*.yml"]},
    include_package_data=True,
)
