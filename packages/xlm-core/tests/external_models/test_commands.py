"""Custom jobs in configs/commands.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.errors import ModelsFileError
from xlm.external_models import load_commands
from xlm.external_models.package import ModelPackage, read_directory

if TYPE_CHECKING:
    from ..conftest import WriteModel


@pytest.fixture
def model(tmp_path: Path, write_model: WriteModel) -> ModelPackage:
    return read_directory("toy", write_model(tmp_path / "toy"), "xlm_models.json")


def test_reads_jobs_by_name(model: ModelPackage) -> None:
    assert load_commands(model) == {"hello_toy": {"target": "toy.parts.hello"}}


def test_a_model_without_jobs(model: ModelPackage) -> None:
    (model.config_dir / "commands.yaml").unlink()
    assert load_commands(model) == {}
    (model.config_dir / "commands.yaml").write_text("# none yet\n")
    assert load_commands(model) == {}


def test_beside_a_mirrored_tree(model: ModelPackage) -> None:
    (model.config_dir / "lightning_train").mkdir()
    again = read_directory("toy", model.root, "xlm_models.json")
    assert again.config_dir.name == "lightning_train"
    assert load_commands(again) == {"hello_toy": {"target": "toy.parts.hello"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "cannot be read as YAML"),
        ("- a", "it must be a mapping {job_type: dotted.path}"),
        ("a: 3", "the entry 'a': 3 must have the form"),
        ("a: {target: b.c, kind: other}", "the kind of 'a' is 'other', and must be one of: composed, standalone"),
        (
            "a: {target: b.c, helps: x}",
            "'a' has a bad entry 'helps'. Entries are texts with the keys: target, help, kind",
        ),
        ("a: {help: x}", "the entry 'a': {'help': 'x'} must have the form"),
        ("3: a.b", "the entry 3: 'a.b' must have the form"),
    ],
)
def test_unusable_files_are_named(model: ModelPackage, text: str, reason: str) -> None:
    (model.config_dir / "commands.yaml").write_text(text)
    with pytest.raises(ModelsFileError) as caught:
        load_commands(model)
    assert reason in str(caught.value)
    assert "commands.yaml" in str(caught.value)
    assert caught.value.name == "toy"
