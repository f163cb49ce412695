"""The page about the architecture lists every module and every decision."""

from docs_tables import CORE, DECISIONS, ROOT, on_page_markdown


def test_the_page_has_every_module_and_decision() -> None:
    source = (ROOT / "docs" / "developers" / "architecture.md").read_text(encoding="utf-8")
    page = on_page_markdown(source)
    modules = [path for path in CORE.rglob("*.py") if not path.name.startswith("__") and "template" not in path.parts]
    assert page.count("\n| `") >= len(modules) > 100
    assert "| `ema.py` | An exponential" in page
    assert all(f"](decisions/{path.name}) |" in page for path in DECISIONS.glob("*.md"))
    assert "<!--" not in page
    # The nav of the site is written by hand.
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in DECISIONS.glob("*.md") if path.name not in nav] == []
