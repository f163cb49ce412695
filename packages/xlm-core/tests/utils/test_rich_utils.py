"""The tree shows every root key, resolved where that is possible."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.table import Table

from xlm.utils.consoles import plain_console
from xlm.utils.rich_utils import print_config_tree


def test_the_tree_is_printed_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = OmegaConf.create(
        {"a": 3, "b": {"c": "${a}", "d": [1, 2]}, "copy": "${a}", "late": "${nothing:here}", "missing": "???"}
    )
    print_config_tree(cfg, save_to_file=tmp_path / "tree.txt")
    printed, saved = capsys.readouterr().out, (tmp_path / "tree.txt").read_text()
    for text in (printed, saved):
        assert all(key in text for key in ("CONFIG", "a", "b", "c: 3", "copy", "${nothing:here}", "???"))
    print_config_tree(cfg, resolve=False)
    assert "c: ${a}" in capsys.readouterr().out


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("runs/a[1]", "[red]x[/red]", "[/bold]", "[PAD] [MASK]", "a:smile:b"):
        table = Table(title=text)
        table.add_row(text)
        plain_console().print(text, table, highlight=False)
        assert capsys.readouterr().out.count(text) == 3


def test_other_ranks_print_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    print_config_tree(OmegaConf.create({"a": 3}))
    assert capsys.readouterr().out == ""


def test_control_characters_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;title\x1b[2Jb\u202ec\x9bd"
    table = Table(title=hostile)
    table.add_row(hostile)
    plain_console(width=120).print(hostile, table, highlight=False)
    shown = capsys.readouterr().out
    assert not any(c in shown for c in "\x1b\u202e\x9b")
    assert shown.count(r"a\x1b]0;title\x1b[2Jb\u202ec\x9bd") >= 1
    styled = plain_console(force_terminal=True, width=80)
    styled.print("red", style="red")
    assert capsys.readouterr().out.startswith("\x1b[31mred")
