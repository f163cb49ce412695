"""The page as a file: self-contained, allowed by its policy, and with escaped data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from xlm.traces.document import Document, render_page, write_page


class Elements(HTMLParser):
    """Tags with their attributes, and the text inside each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)


@pytest.fixture
def page(doc: Document) -> Elements:
    return Elements(render_page(doc))


def test_nothing_is_fetched(doc: Document, page: Elements) -> None:
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<>)]+", render_page(doc)))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of SVG, which is not fetched"
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not attributes.keys() & {"src", "href", "srcset", "action"}


def test_the_policy_admits_exactly_the_script_and_the_style(page: Elements) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script, style = max((t for t in page.texts["script"] if t[0] != "{"), key=len), page.texts["style"][0]
    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag


def test_the_data_is_whole_and_does_not_break_out(doc: Document, page: Elements) -> None:
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert [tag for tag, _ in page.tags].count("b") == 0
    data = next(text for text in page.texts["script"] if text.startswith("{"))
    assert json.loads(data) == json.loads(json.dumps(doc))


def test_without_scripts_the_answers_can_be_read(page: Elements) -> None:
    assert {"0 1 1 2", "0 3 3 2", "5 6 7"} <= set(page.texts["dd"])


def test_the_page_is_written_whole(doc: Document, tmp_path: Path) -> None:
    write_page(tmp_path / "a/trace.html", doc)
    assert (tmp_path / "a/trace.html").read_text(encoding="utf-8") == render_page(doc)
    assert len(list((tmp_path / "a").iterdir())) == 1
