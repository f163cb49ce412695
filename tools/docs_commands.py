"""Stands in for `hatch` and `pip` while the documentation runs: names are looked up, nothing is installed.

python tools/docs_commands.py hatch run train seed=7     the script of hatch.toml, in the present environment
python tools/docs_commands.py pip install xlm-arlm       every name must be a package of ours or installed
"""

from __future__ import annotations

import importlib.metadata as metadata
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from workspace import ROOT, read_packages


class StandInError(Exception):
    """The command would not work for a reader either, or nothing stands in for it."""


def script(name: str, arguments: list[str]) -> list[str]:
    """Shell commands of `hatch run [ENV:]NAME ARGUMENTS`, as hatch.toml gives them."""
    env, _, key = name.rpartition(":")
    hatch = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))
    scripts = hatch["envs"].get(env.split(".")[0] or "default", {}).get("scripts", {})
    if key not in scripts:
        raise StandInError(f"hatch.toml has no script {name!r}. Scripts: {', '.join(scripts)}")
    lines = [scripts[key]] if isinstance(scripts[key], str) else scripts[key]
    quoted = " ".join(f"'{a}'" if set(a) & set("[]*~${} ") else a for a in arguments)
    return [line.replace("{root}", str(ROOT)).replace("{args}", quoted) for line in lines]


def hatch(arguments: list[str]) -> int:
    """`hatch run …`, up to the first command that fails.

    Tests are only collected, as they run this page; all of them not even that, as this takes half a minute.
    """
    if arguments[:1] != ["run"] or len(arguments) < 2:
        raise StandInError(f"nothing stands in for 'hatch {' '.join(arguments)}'. Say needs=network above the block")
    for line in script(arguments[1], arguments[2:]):
        tests = line.startswith("pytest")
        if tests and not arguments[2:]:
            continue
        command = f"{line} -n 0 --collect-only -q -p no:cacheprovider" if tests else line
        code = subprocess.run(command, shell=True, cwd=ROOT if tests else Path.cwd(), check=False).returncode
        if code:
            return code
    return 0


def known(requirement: str) -> bool:
    """Whether a requirement names a package of ours, a folder that can be installed, or what is installed."""
    if (Path(requirement) / "pyproject.toml").is_file():
        return True
    try:
        name = Requirement(requirement).name
        return name in {*read_packages(ROOT), "hatch"} or bool(metadata.version(name))
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def pip(arguments: list[str]) -> int:
    """`pip install …`: only look the names up."""
    if arguments[:1] != ["install"]:
        raise StandInError(f"nothing stands in for 'pip {' '.join(arguments)}'. Say needs=network above the block")
    unknown = [a for a in arguments[1:] if not a.startswith("-") and not known(a)]
    if unknown:
        raise StandInError(f"no package of this repository, and not installed here: {', '.join(unknown)}")
    return 0


def main(argv: list[str]) -> int:
    """Run one stand-in; its exit code."""
    try:
        return {"hatch": hatch, "pip": pip}[argv[0]](argv[1:])
    except StandInError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
