"""The page in Chromium: slider, play, keys, probabilities, motion, the width of a phone, and no console messages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from xlm.traces.document import Document, write_page

pytestmark = pytest.mark.slow

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
# Nothing is looked up in the network, not even at start.
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")


def chromium() -> str:
    """The browser that is installed; playwright's own is not downloaded."""
    found = [path for name in PROGRAMS if (path := shutil.which(name))] + [p for p in PLACES if Path(p).is_file()]
    assert found, "These tests need Chromium or Chrome, for instance: apt-get install chromium"
    return found[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def file(doc: Document, tmp_path: Path) -> Path:
    write_page(tmp_path / "trace.html", doc)
    return tmp_path / "trace.html"


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """Opened from disk at a desktop's width; whatever the console says, or the page asks for, is a failure."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
    opened.goto(file.as_uri())
    yield opened
    context.close()
    assert said == []


def answers(page: Page) -> list[str]:
    """What stands in each card; masks are empty."""
    rows: list[str] = page.eval_on_selector_all(
        ".row", "rows => rows.map(row => [...row.children].map(token => token.textContent || '_').join(' '))"
    )
    return rows


def moment(page: Page) -> str:
    return page.locator("#now").inner_text()


def first(page: Page, selector: str) -> Locator:
    return page.locator(selector).first


def test_the_page_opens_at_the_end(page: Page) -> None:
    assert moment(page) == "6 / 6"
    assert answers(page) == ["0 1 1 2", "0 1 1 2 end", "0 3 3 2 end", "5 6 7"]
    assert page.locator(".verdict.right").all_inner_texts() == ["reaches the goal"] * 2 + ["as in the data"]
    assert page.locator(".verdict.wrong").all_inner_texts() == ["does not reach the goal"]
    assert page.title().startswith("Traces </title>")


def test_the_slider_moves_through_time(page: Page) -> None:
    page.locator("#time").fill("3")
    assert moment(page) == "3 / 6"
    assert answers(page) == ["0 1 2", "_ _ _ 2 end end", "_ _ _ 2 end end", "5 6 7"]
    page.locator("#time").fill("0")
    assert answers(page) == ["", "_ _ _ _ _ _", "_ _ _ _ _ _", "5 _ 7"]


def test_keys_step_jump_and_play(page: Page) -> None:
    for key, after in (
        ("Home", "0 / 6"), ("ArrowLeft", "0 / 6"), ("ArrowRight", "1 / 6"), ("ArrowRight", "2 / 6"),
        ("ArrowLeft", "1 / 6"), ("End", "6 / 6"), ("ArrowRight", "6 / 6"), ("Home", "0 / 6"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert moment(page) == after, key
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    expect(page.locator("#now")).to_have_text("2 / 6", timeout=30_000)
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def test_keys_work_while_the_slider_has_the_focus(page: Page) -> None:
    page.locator("#time").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert moment(page) == "1 / 6"


def test_play_begins_anew_at_the_end_and_stops_there(page: Page) -> None:
    page.locator("#speed").click()
    page.locator("#speed").click()
    assert page.locator("#speed").inner_text() == "4×"
    page.locator("#play").click()
    assert moment(page) == "0 / 6"
    expect(page.locator("#now")).to_have_text("6 / 6", timeout=30_000)
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def test_edges_appear_right_or_wrong(page: Page) -> None:
    graphs = page.locator(".graph")
    assert [graphs.nth(n).locator(".written").count() for n in range(3)] == [2, 2, 2]
    assert graphs.nth(0).locator(".written.right").count() == 2
    assert graphs.nth(2).locator(".written.wrong").count() == 2
    assert graphs.nth(2).locator(".written.invented").count() == 1
    assert graphs.nth(2).get_attribute("aria-label") == "Graph from 0 to 2: 0 right, 2 wrong edges of the answer"
    assert graphs.nth(0).locator(".cross").count() == 0
    assert graphs.nth(2).locator(".written.wrong .cross").count() == 2, "wrong without colors too"
    page.keyboard.press("Home")
    assert page.locator(".written").count() == 0


def test_the_legend_has_the_marks_of_the_page(page: Page, remasked: Document, boards: Document, file: Path) -> None:
    def marks() -> set[str]:
        return {text.removeprefix("a\n") for text in page.locator(".legend li:visible").all_inner_texts()}

    both = {"first call\nlast call", "new in this call", "mask, to be filled"}
    assert marks() == {*both, "given", "start\ngoal\nright\nwrong\nnot in the graph"}
    assert page.locator(".scale").evaluate("scale => getComputedStyle(scale).backgroundImage").count("rgb") == 5
    for doc, others in ((remasked, {"masked again", "given"}), (boards, {"given\nright\nwrong"})):
        write_page(file, doc)
        page.reload()
        assert marks() == both | others


def board(page: Page, number: int) -> list[str]:
    """The cells of a board, with what is said of each."""
    cells: list[str] = page.locator(".board").nth(number).locator(".cell").evaluate_all(
        "cells => cells.map(cell => `${cell.textContent} ${[...cell.classList].slice(1).sort().join(' ')}`.trim())"
    )  # fmt: skip
    return cells


def test_boards_are_filled_right_or_wrong(page: Page, boards: Document, file: Path) -> None:
    write_page(file, boards)
    page.reload()
    assert board(page, 0) == ["1 given", "2 right written", "2 right written", "1 right written"]
    assert board(page, 1) == ["2 fresh given written wrong", "2 right written", "1 written wrong", "1 right written"]
    assert board(page, 2) == ["1 given", "2 written", "2 written", "1 fresh written"]
    assert page.locator(".verdict").all_inner_texts() == ["solved", "not solved", "not as in the data"]
    assert page.locator(".board").nth(1).get_attribute("aria-label") == (
        "Board of 2 × 2: 2 right, 2 wrong cells of the answer"
    )
    assert [page.locator(".board").nth(n).locator(".cross:visible").count() for n in range(3)] == [0, 2, 0]
    assert page.locator("#grid-marks").is_visible()
    assert page.locator("#graph-marks").is_hidden()
    assert page.locator(".board").nth(0).locator(".box").count() == 3 + 2
    assert page.locator("h2").first.inner_text() == "Two by two"
    page.locator("#time").fill("4")
    assert board(page, 0) == ["1 given", "", "2 fresh right written", "1 right written"]
    assert page.locator(".verdict").first.inner_text() == "2 right, 0 wrong"
    page.keyboard.press("Home")
    assert [board(page, n) for n in range(3)] == [["1 given", "", "", ""]] * 3
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_is_taken_back_is_a_moment_of_its_own(page: Page, remasked: Document, file: Path) -> None:
    write_page(file, remasked)
    page.reload()
    assert moment(page) == "3 / 3"
    page.keyboard.press("ArrowLeft")
    assert (moment(page), answers(page)) == ("2½ / 3", ["_ _", "5 6 7"])
    assert page.locator(".count").all_inner_texts() == ["2½ / 3", "1 / 1"]
    assert page.locator(".row .token.mask.back").count() == 2
    assert page.locator("#time").get_attribute("aria-valuetext") == "network call 2 of 3, tokens taken back"
    page.keyboard.press("ArrowLeft")
    assert (moment(page), answers(page)) == ("2 / 3", ["6 8", "5 6 7"])
    assert page.locator(".row .token.mask.back").count() == 0
    page.goto(f"{file.as_uri()}#call=3")
    page.reload()
    assert moment(page) == "3 / 3", "a call is found by its number, whatever lies before it"


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_the_probability_is_shown_on_hover_and_on_focus(page: Page, how: str) -> None:
    tip = page.locator("#tip")
    assert tip.is_hidden()
    token = first(page, ".token[tabindex]")
    getattr(token, how)()
    assert tip.is_visible()
    assert tip.locator(".own").inner_text().split("\n") == ["0", "72 %"]
    assert tip.locator(".other").count() == 3
    assert tip.locator(".when").inner_text() == "call 1 · this gap 50 %"
    assert "probability 72 %" in (token.get_attribute("aria-label") or "")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_insertions_move_the_rest_and_calm_readers_see_none_of_it(browser: Browser, file: Path) -> None:
    for motion, moves in (("no-preference", True), ("reduce", False)):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion=motion)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{file.as_uri()}#call=2")
        page.wait_for_timeout(400)
        # Pressed and counted in one go: on a busy machine the motion would be over.
        running = page.evaluate("""() => {
            dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
            return document.querySelector(".row").getAnimations({subtree: true}).length;
        }""")
        assert (running > 1) == moves, "the new token and the one that it moves"
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768])
def test_narrow_screens_scroll_in_one_direction_only(browser: Browser, file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(file.as_uri())
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") > 740
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(", "))) for colour in colours]
    assert (light[0] > light[1]) == (scheme == "dark")
    buttons = page.locator(".controls button")
    for n in range(buttons.count()):
        box = buttons.nth(n).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, "as large as a fingertip"
    context.close()
