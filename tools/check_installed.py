"""Fails unless exactly the named packages of this repository are installed and importable.

python tools/check_installed.py xlm-core xlm-arlm
python tools/check_installed.py --not-editable xlm-core xlm-arlm     and they are installed copies, not the checkout
"""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import importlib.util
import json
import sys
from pathlib import Path

from workspace import ROOT, Package, read_packages


def is_editable(name: str) -> bool:
    """Whether a distribution is installed as a link to its sources (PEP 610)."""
    text = metadata.distribution(name).read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))


def problems(packages: dict[str, Package], wanted: list[str], *, not_editable: bool) -> list[str]:
    """What differs from `wanted` in the running environment, as sentences."""
    found = [f"packages/ has no {name}" for name in wanted if name not in packages]
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    for name, package in packages.items():
        spec = importlib.util.find_spec(package.import_name)
        if name not in wanted:
            if name in installed:
                found.append(f"{name} is installed, and should not be")
            elif spec:
                found.append(f"{package.import_name} can be imported from {spec.origin}, and should not be")
        elif name not in installed or not spec:
            found.append(f"{name} is not installed")
        elif not_editable and is_editable(name):
            found.append(f"{name} is editable: this tests the checkout, not what a user gets")
        elif not_editable and spec.origin and Path(spec.origin).is_relative_to(ROOT / "packages"):
            found.append(f"{package.import_name} comes from the checkout: {spec.origin}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Print what is wrong; the exit code says whether anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--not-editable", action="store_true")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    args = parser.parse_args(argv)
    found = problems(read_packages(ROOT), args.packages, not_editable=args.not_editable)
    print("\n".join(found) or f"alone: {', '.join(args.packages)}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
