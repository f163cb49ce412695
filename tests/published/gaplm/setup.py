"""Installs the model of gaps."""

from setuptools import setup

setup(
    name="gaplm",
    version="0.1.0",
    packages=["gaplm"],
    package_dir={"gaplm": "."},
    package_data={"gaplm": ["configs/**/*.yaml", "configs/**/*.yml"]},
    include_package_data=True,
)
