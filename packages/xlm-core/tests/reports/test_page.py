"""The page is self-contained, and text from runs cannot change its structure."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from xlm.reports.document import Report, build_report, decimals
from xlm.reports.page import as_markdown, marked, pairs_csv, render_page, values_csv
from xlm.reports.run import read_run

if TYPE_CHECKING:
    from .conftest import WriteRun

HOSTILE = "</script><img src=x onerror=alert(1)> | `` ` {{ 7*7 }}"


class Reader(HTMLParser):
    """Every tag with its attributes, and whether all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def report(write_run: WriteRun) -> Report:
    a = write_run("a", answers=["0 0", "1 1", "2 2", HOSTILE])
    b = write_run("b", model="mlm", lr=0.2, answers=["0 0", "x", "2 2", "3"])
    return build_report([read_run(a), read_run(b)], title=HOSTILE)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_nothing_is_fetched(report: Report) -> None:
    page = render_page(report)
    reader = read(page)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "img", "iframe", "object", "base", "form")
        assert not {"src", "srcset", "style", "action", "xlink:href"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    urls = set(re.findall(r"https?://[^\"'\s]+", page))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere_and_regions_have_names(report: Report) -> None:
    reader = read(render_page(report))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in reader.tags:
        for name in ("href", "aria-labelledby"):
            if name in attributes:
                assert str(attributes[name]).removeprefix("#") in ids
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0"  # so that the keyboard can scroll it


def test_texts_stay_texts(report: Report) -> None:
    page = render_page(report)
    assert "<img" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]
    assert page.count("</script>") == 2
    assert r"# \</script\>\<img src=x onerror=alert(1)\> \| " in as_markdown(report)


def test_what_is_shown(report: Report) -> None:
    page, text = render_page(report), as_markdown(report)
    for wanted in ("optimizer.lr", "1,234", "test/prediction", "Paired comparison", "Samples"):
        assert wanted in page
        assert wanted in text
    assert "0.75 ± 0.22" in text
    assert "| a | b | test/prediction | 4 | 1 | 0 | +0.250 " in text


def test_every_table_has_a_hint_for_narrow_screens(report: Report) -> None:
    tags = read(render_page(report)).tags
    for (_, before), (_, attributes) in pairwise(tags):
        if attributes.get("class") == "scroll":
            assert before["class"] == "soft more"
            assert "hidden" in before


def test_panels_say_their_unit_and_scale(report: Report) -> None:
    data = json.loads(re.findall(r'id="data">(.*?)</script>', render_page(report))[0])
    found = {panel["label"]: (panel["unit"], panel["share"], panel["log"]) for panel in data["panels"]}
    assert found["exact match, val (prediction)"] == ("share of examples", True, False)
    assert found["loss, train (lm), toy"] == ("nats", False, True), "from 3 to 0.15"
    assert found["tokens per second, train"] == ("tokens/s", False, False)
    assert 'id="log" checked' in render_page(report)


def test_constants_and_missing_pairs_are_explained(write_run: WriteRun) -> None:
    folders = [write_run("a", answers=["0 0"]), write_run("b")]
    for folder, calls in zip(folders, (7, 9), strict=True):
        with (folder / "metrics.csv").open("a") as file:
            file.writelines(f"{step},val/prediction/length,{calls},{1000 + step}\n" for step in (10, 20))
    report = build_report([read_run(folder) for folder in folders])
    page = render_page(report)
    assert "Not drawn, because they don't change during a run: val/prediction/length 7.000 to 9.000." in page
    assert "prediction/length" not in page[page.index('id="data"') :]
    reason = "None: only a has predictions."
    assert reason in page
    assert f"## Paired comparison\n\n{reason}" in as_markdown(report)
    read(page)


def test_tables_for_programs(report: Report) -> None:
    values = list(csv.DictReader(io.StringIO(values_csv(report))))
    match = next(v for v in values if (v["run"], v["metric"]) == ("a", "test/prediction/exact_match"))
    assert (float(match["value"]), int(match["n"]), match["source"]) == (0.75, 4, "results.json")
    (pair,) = csv.DictReader(io.StringIO(pairs_csv(report)))
    assert (pair["first"], pair["second"], pair["n"], pair["only_first"], pair["p_mcnemar"]) == (
        "a",
        "b",
        "4",
        "1",
        "1.0",
    )


def test_one_unfinished_run_is_enough(write_run: WriteRun) -> None:
    folder = write_run("a", ended=False)
    (folder / "results.json").write_text('{"metrics": ')
    page = render_page(build_report([read_run(folder)]))
    assert "results.json is damaged" in page
    assert "Paired comparison" not in page
    assert "Results on val" in page
    read(page)


def test_marked_words() -> None:
    assert marked("1 2 9 4", "1 2 3 4") == [("1 2", True), ("9", False), ("4", True)]
    assert marked("1 4", "1 3 4") == [("1", True), ("‸", False), ("4", True)]
    assert marked("any", None) == [("any", True)]


def test_numbers_are_short() -> None:
    assert [decimals(v) for v in (0.0, 0.53204, 13.25, 478.31, 6787.1, 1.19e-5, -2.5)] == [
        "0.000", "0.532", "13.25", "478.3", "6,787", "1.19e-05", "-2.500",
    ]  # fmt: skip
