"""What the documentation's site takes from the repository: the changelogs of all packages, and its address.

A hook of mkdocs. The address is REPOSITORY_URL, else that of the remote `origin`; without either, the site has no link.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from workspace import read_packages

ROOT = Path(__file__).resolve().parent.parent
_BOOSTS = {
    "guide/own-text": 3.0,
    "guide/data": 2.0,
    "guide/training": 2.0,
    "guide/many-processes": 2.0,
    "guide/gpu": 2.0,
    "guide/fine-tuning": 2.0,
    "guide/profiling": 2.0,
    "guide/report": 2.0,
    "glossary": 0.5,
    "changelog": 0.3,
    "developers/": 0.3,
}
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)


def changelogs(root: Path = ROOT) -> str:
    """The changelogs of all packages, xlm-core first, each below a heading with its name."""
    return "\n\n".join(_section(root / "packages" / name / "CHANGELOG.md", name) for name in read_packages(root))


def _section(path: Path, name: str) -> str:
    """One changelog without its title and preface, its headings one level lower."""
    _, _, versions = path.read_text(encoding="utf-8").partition("\n## ")
    lower = _HEADING.sub(r"#\1 ", f"## {versions}")
    return f"## {name}\n\n" + re.sub(r"^### \[(.+?)\]", r"### \1", lower, flags=re.MULTILINE).strip()


def repository_url(environ: dict[str, str] | os._Environ[str] = os.environ, root: Path = ROOT) -> str | None:
    """The repository's address for a browser."""
    if url := environ.get("REPOSITORY_URL"):
        return url
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return browsable(done.stdout.strip()) if done.returncode == 0 else None


def browsable(remote: str) -> str | None:
    """A remote of git as an address for a browser: `git@host:a/b.git` is `https://host/a/b`; None for a folder."""
    if match := re.fullmatch(r"(?:ssh://)?git@([^:/]+)[:/](.+?)(?:\.git)?/?", remote):
        return f"https://{match[1]}/{match[2]}"
    if match := re.fullmatch(r"(https?://)(?:[^@/]+@)?(.+?)(?:\.git)?/?", remote):
        return match[1] + match[2]
    return None


def on_config(config: Any, **_: Any) -> Any:
    """Link the repository in the header of each page."""
    if url := repository_url():
        config.repo_url = url
        config.repo_name = url.removeprefix("https://").partition("/")[2]
    return config


def search_boost(page: str) -> float:
    """The weight of a page in the site's search: main pages of the guide first, logs and notes for developers last."""
    return next((boost for start, boost in _BOOSTS.items() if page.startswith(start)), 1.0)


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Put the changelogs where a page asks for them, and weight the page in the search."""
    if page is not None and (boost := search_boost(page.file.src_uri)) != 1:
        page.meta.setdefault("search", {"boost": boost})
    return markdown.replace("<!-- changelogs -->", changelogs()) if "<!-- changelogs -->" in markdown else markdown
