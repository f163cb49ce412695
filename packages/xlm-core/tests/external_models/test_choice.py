"""XLM_MODELS chooses the models that are used; the others are never touched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.cli.main import main
from xlm.errors import ExternalModelError, UnknownModelError
from xlm.external_models import discover, find_model

if TYPE_CHECKING:
    from ..conftest import WriteModel

HANGS = "import time\nopen('canary', 'w')\ntime.sleep(600)\n"


@pytest.fixture
def listed(work_dir: Path, write_model: WriteModel) -> Path:
    """Two models, of which one never finishes its import, and a third without a package."""
    write_model(work_dir / "toy_one", "toy_one")
    write_model(work_dir / "toy_slow", "toy_slow", init=HANGS)
    (work_dir / "toy_none").mkdir()
    entries = ", ".join(f'"{name}": "{name}"' for name in ("toy_one", "toy_slow", "toy_none"))
    (work_dir / "xlm_models.json").write_text(f"{{{entries}}}")
    return work_dir


def test_only_listed_models_are_used(listed: Path) -> None:
    everything = discover({}, listed)
    assert {"toy_one", "toy_slow", "arlm"} <= everything.models.keys()
    assert everything.switched_off == []
    found = discover({"XLM_MODELS": "toy_one, arlm"}, listed)
    assert sorted(found.models) == ["arlm", "toy_one"]
    assert (found.errors, found.warnings, found.unusable) == ([], [], {})
    assert {"toy_slow", "toy_none", "mlm"} <= set(found.switched_off)
    with pytest.raises(ExternalModelError, match=r"'toy_slow' is switched off: XLM_MODELS doesn't list it"):
        find_model("toy_slow", found)
    assert discover({"XLM_MODELS": " "}, listed).models.keys() == everything.models.keys()


def test_a_name_that_no_model_has(listed: Path) -> None:
    found = discover({"XLM_MODELS": "toy_on"}, listed)
    with pytest.raises(UnknownModelError, match=r"no model 'toy_on', which XLM_MODELS lists. Did you mean 'toy_one'"):
        found.raise_errors()


def test_a_listed_model_keeps_its_problem(listed: Path) -> None:
    assert list(discover({"XLM_MODELS": "toy_none"}, listed).unusable) == ["toy_none"]


def test_the_list_of_models_and_errors_name_it(
    listed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh_process: None
) -> None:
    monkeypatch.setenv("XLM_MODELS", "toy_one")
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "1 model can be used." in shown
    assert "Switched off by XLM_MODELS: arlm," in shown
    assert "toy_slow" in shown.splitlines()[-1]
    assert main(["name", "model=toy_slow", "model_type=toy_slow"]) == 1
    assert "Model 'toy_slow' is switched off: XLM_MODELS doesn't list it." in capsys.readouterr().err
    assert not Path("canary").exists()
