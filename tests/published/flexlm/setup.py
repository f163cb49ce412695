"""Installs the flexible-length model."""

from setuptools import setup

setup(
    name="flexlm",
    version="0.2.0",
    packages=["flexlm"],
    data_files=[],
)
