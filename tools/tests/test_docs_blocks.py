"""Tests of finding code blocks and annotations in Markdown pages."""

from pathlib import Path

import pytest

from docs_blocks import Block, DocsError, commands, read_blocks


def blocks(tmp_path: Path, text: str) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return read_blocks(page)


def test_blocks_in_order_with_their_lines(tmp_path: Path) -> None:
    found = blocks(tmp_path, "# T\n\n```bash\na\n```\ntext\n~~~ python title='x'\nb\n~~~\n```\nplain\n```\n")
    assert [(b.language, b.code, b.line, b.runs) for b in found] == [
        ("bash", "a", 3, True),
        ("python", "b", 7, True),
        ("", "plain", 10, False),
    ]


@pytest.mark.parametrize("language", ["text", "yaml", "json", "toml", "mermaid"])
def test_other_languages_do_not_run(tmp_path: Path, language: str) -> None:
    assert not blocks(tmp_path, f"```{language}\nx\n```\n")[0].runs


def test_a_longer_fence_holds_a_shorter_one(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path, "````text\n```bash\nfalse\n```\n````\n")
    assert found.code == "```bash\nfalse\n```"


def test_an_indented_fence_loses_its_indent(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path, "- item\n\n    ```bash\n    if true; then\n      a\n    fi\n    ```\n")
    assert found.code == "if true; then\n  a\nfi"


def test_notes(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path, '<!-- docs: slow needs=gpu,git overrides="a=1 b=2" -->\n\n```bash\na\n```\n')
    assert found.notes == {"slow": "", "needs": "gpu,git", "overrides": "a=1 b=2"}
    assert found.needs == ["gpu", "git"]


def test_notes_belong_to_one_block(tmp_path: Path) -> None:
    found = blocks(tmp_path, "<!-- docs: slow -->\n```bash\na\n```\n```bash\nb\n```\n")
    assert [b.notes for b in found] == [{"slow": ""}, {}]


def test_a_file_is_written_in_any_language(tmp_path: Path) -> None:
    (found,) = blocks(tmp_path, "<!-- docs: file=x.yaml -->\n```yaml\na: 1\n```\n")
    assert found.runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- docs: skip -->\n```bash\na\n```\n", r"page.md:1: 'skip' means nothing here. Known: check, "),
        ("<!-- docs: slow=1 -->\n```bash\na\n```\n", "'slow=1' means nothing"),
        ("<!-- docs: slow -->\nprose\n", "page.md:2: a docs comment must stand right above its block"),
        ("```bash\na\n", "page.md:1: this fence has no end"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DocsError, match=message):
        blocks(tmp_path, text)


def test_console_blocks_hold_commands_and_output() -> None:
    code = "$ echo a \\\n  b\na b\n$ cat <<E\n> x\n> E\nx\n$ true"
    assert commands(Block(Path("p"), 1, "console", code)) == [
        ("echo a \\\n  b", "a b"),
        ("cat <<E\nx\nE", "x"),
        ("true", ""),
    ]
    with pytest.raises(DocsError, match="p:1: a console block begins with a command"):
        commands(Block(Path("p"), 1, "console", "output"))
