"""Configuration files that are hidden by another folder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xlm.external_models.discovery import hidden_configs
from xlm.external_models.package import read_directory

if TYPE_CHECKING:
    from ..conftest import WriteModel


def test_the_first_place_hides_the_others(tmp_path: Path, write_model: WriteModel) -> None:
    one = read_directory("one", write_model(tmp_path / "one", "one"), "a.json")
    two = read_directory("two", write_model(tmp_path / "two", "two"), "b.json")
    assert hidden_configs({"one": one, "two": two}) == {}
    (two.config_dir / "model" / "one.yaml").write_text("a: 1\n")
    (two.config_dir / "config.yaml").write_text("a: 1\n")
    assert hidden_configs({"one": one, "two": two}) == {
        "two": [("config.yaml", "xlm-core"), ("model/one.yaml", "model 'one'")]
    }


def test_two_names_for_one_directory_hide_nothing(tmp_path: Path, write_model: WriteModel) -> None:
    one = read_directory("one", write_model(tmp_path / "one", "one"), "a.json")
    assert hidden_configs({"one": one, "again": one}) == {}
