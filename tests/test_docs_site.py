"""The documentation's site: searched words find pages, the home leads everywhere, and the nav lists every page."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import docs_search
import docs_site
from workspace import ROOT, read_packages

HOME = "index.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def pages() -> dict[str, str]:
    return docs_search.pages()


@cache
def links(page: str) -> frozenset[str]:
    """Pages that the text of a page links, without its code."""
    text = docs_search.FENCE.sub("", pages()[page])
    targets = (target.partition("#")[0] for target in LINK.findall(text) if "://" not in target)
    folder = posixpath.dirname(page)
    return frozenset(posixpath.normpath(posixpath.join(folder, target)) for target in targets if target)


@cache
def index() -> docs_search.Index:
    return docs_search.Index(docs_search.sections(pages()))


@pytest.mark.parametrize("query", docs_search.TERMS)
def test_what_people_search_finds_its_page(query: str) -> None:
    assert docs_search.TERMS[query] in index().search(query)[: docs_search.FIRST]


def test_a_word_that_no_page_has_finds_nothing() -> None:
    assert index().search("qwertz") == []
    assert index().search("slurm qwertz") == []


def test_every_page_is_two_clicks_from_the_home() -> None:
    one = links(HOME)
    two = one.union(*(links(page) for page in one if page in pages()), {HOME})
    assert sorted(set(pages()) - two) == []


def test_links_of_pages_name_files() -> None:
    broken = [
        f"{page}: {target}" for page in pages() for target in links(page) if not (docs_search.DOCS / target).is_file()
    ]
    assert broken == []


def test_links_of_readmes_name_files() -> None:
    for readme in [ROOT / "README.md", *ROOT.glob("packages/*/README.md")]:
        targets = [link.partition("#")[0] for link in LINK.findall(readme.read_text(encoding="utf-8"))]
        local = [target for target in targets if target and "://" not in target]
        assert [target for target in local if not (readme.parent / target).exists()] == []


def test_the_nav_has_every_page_once() -> None:
    # mkdocs.yml has a tag for the icons of mkdocs-material elsewhere; only the nav is read here.
    _, _, nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")
    listed = re.findall(r"[\w/.-]+\.md", yaml.safe_dump(yaml.safe_load(nav), width=1000))
    assert sorted(listed) == sorted(pages())


def test_the_changelog_has_every_package() -> None:
    page = pages()["changelog.md"]
    for name, package in read_packages(ROOT).items():
        assert f"\n## {name}\n" in page
        own = (package.path / "CHANGELOG.md").read_text(encoding="utf-8").strip().splitlines()[-1]
        assert own in page
    assert page.count("\n### 1.0.0\n") == len(read_packages(ROOT))


def test_the_repository_is_that_of_the_environment_or_of_the_remote(tmp_path: Path) -> None:
    assert docs_site.repository_url({"REPOSITORY_URL": "https://example.org/a/b"}) == "https://example.org/a/b"
    assert docs_site.repository_url({}, tmp_path) is None  # no repository
    for remote in ("git@example.org:a/b.git", "https://example.org/a/b.git", "https://me:secret@example.org/a/b"):
        assert docs_site.browsable(remote) == "https://example.org/a/b"
    assert docs_site.browsable("/home/me/b.git") is None


def test_citation() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # What version 1.2.0 of the format requires.
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert all(author.get("name") for author in cited["authors"])
    assert cited["license"] == "Apache-2.0"
