"""The page in Chromium: curves with pointer and keys, hidden runs, the width of a phone, and no console messages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from xlm.reports.document import build_report
from xlm.reports.page import render_page
from xlm.reports.run import read_run

if TYPE_CHECKING:
    from .conftest import WriteRun

pytestmark = pytest.mark.slow

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Nothing is looked up in the network, not even at start.
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    assert program, "These tests need Chromium or Chrome, for instance: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, write_run: WriteRun, tmp_path: Path) -> Iterator[Page]:
    """Opened from disk; whatever the console says, or the page asks for, is a failure."""
    folders = [write_run("a", answers=["0 0", "1 1"]), write_run("b", answers=["0 0", "x"])]
    file = tmp_path / "report.html"
    file.write_text(render_page(build_report([read_run(folder) for folder in folders])), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert said == []


def test_every_panel_has_a_curve_of_each_run(page: Page) -> None:
    assert page.locator(".panel figcaption").all_text_contents() == [
        "loss, train (lm)",
        "exact match, val (prediction)",
        "tokens per second, train",
    ]
    for panel in page.locator(".panel").all():
        assert panel.locator("polyline").count() == 2
    assert page.locator("circle").count() > 0


def test_pointer_and_keys_show_values(page: Page) -> None:
    panel = page.locator(".panel").nth(1)
    tip = panel.locator(".tip")
    expect(tip).to_be_hidden()
    panel.locator("svg").hover(position={"x": 60, "y": 50})
    expect(tip).to_contain_text("step 10")
    expect(tip).to_contain_text("0.25")
    panel.locator("svg").focus()
    page.keyboard.press("End")
    expect(tip).to_contain_text("step 20")
    page.keyboard.press("Home")
    expect(tip).to_contain_text("step 10")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_runs_are_hidden_and_axes_changed(page: Page) -> None:
    button = page.get_by_role("button", name="a", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    assert page.locator(".panel").first.locator("polyline").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".panel").first.locator("polyline").count() == 2
    before = page.locator("polyline").first.get_attribute("points")
    page.get_by_label("losses on a logarithmic scale").uncheck()
    assert page.locator("polyline").first.get_attribute("points") != before
    page.get_by_label("minutes", exact=True).check()
    page.locator(".panel svg").nth(1).focus()
    page.keyboard.press("End")
    expect(page.locator(".tip").nth(1)).to_contain_text("0.3 min")


def axis(page: Page, panel: int) -> list[str]:
    """The texts of a panel: unit, title and ticks of its axes."""
    return page.locator(".panel").nth(panel).locator("text").all_text_contents()


def test_axes_have_units_and_shares_run_from_0_to_1(page: Page) -> None:
    assert {"nats", "0.2", "0.5", "1", "2", "optimizer steps"} <= set(axis(page, 0)), "logarithmic: it spans a decade"
    assert {"share of examples", "0", "0.2", "1"} <= set(axis(page, 1))
    page.get_by_label("minutes", exact=True).check()
    assert "minutes of training" in axis(page, 1)


def test_a_constant_has_an_axis_of_its_size(browser: Browser, write_run: WriteRun, tmp_path: Path) -> None:
    """Where another run is hidden that made the panel: never from -1 to 1."""
    folders = [write_run("a"), write_run("b")]
    rows = "".join(f"{step},val/lm/accumulated_loss,0,{1000 + step}\n" for step in (5, 10))
    (folders[0] / "metrics.csv").write_text("step,name,value,time\n" + rows)
    (folders[1] / "metrics.csv").write_text("step,name,value,time\n" + rows + "20,val/lm/accumulated_loss,3,1020\n")
    file = tmp_path / "report.html"
    file.write_text(render_page(build_report([read_run(folder) for folder in folders])), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.goto(file.as_uri())
    opened.get_by_role("button", name="b", exact=True).click()
    texts = axis(opened, 0)
    assert "-1" not in "".join(texts)
    assert {"0", "0.5", "1"} & set(texts)
    opened.close()


@pytest.mark.parametrize(("width", "is_cut"), [(390, True), (1280, False)])
def test_a_table_says_where_it_has_more_columns(page: Page, width: int, is_cut: bool) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    hint, table = page.locator("#pairs .more"), page.locator("#pairs .scroll")
    expect(hint).to_be_visible() if is_cut else expect(hint).to_be_hidden()
    assert ("cut" in (table.get_attribute("class") or "").split()) == is_cut
    table.evaluate("box => box.scrollLeft = box.scrollWidth")
    expect(table).not_to_have_class("scroll cut")


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_itself_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
