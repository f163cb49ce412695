"""What a person asks the scaffold for, checked as far as the words alone allow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from xlm.errors import ScaffoldError

LAYOUTS = ("flat", "nested")
LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "none": None}


@dataclass(frozen=True)
class Request:
    """One new model `name` in `output_dir` (absolute); texts are single lines.

    Layouts: flat, the folder `name` is the package; nested, it holds the package. `license` is a key of LICENSES.
    """

    name: str
    output_dir: Path
    template: str = "minimal"
    layout: str = "flat"
    description: str = ""
    author: str = ""
    license: str = "apache-2.0"

    def __post_init__(self) -> None:
        for option in ("description", "author"):
            text = getattr(self, option)
            # isprintable also refuses halves of surrogate pairs, which no file could hold.
            if not text.isprintable():
                raise ScaffoldError(f"--{option} must be one line of text without control characters.")

    @property
    def root(self) -> Path:
        """The folder that will be made."""
        return self.output_dir / self.name

    def shown(self, path: Path) -> str:
        """`path` as a person would type it from the current directory."""
        relative = os.path.relpath(path)
        return str(path) if relative.startswith("..") else relative
