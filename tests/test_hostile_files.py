"""Files made to do harm: every command answers in one sentence, runs nothing, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hostile_files import CASES, TOUCH, Base, Case, setting
from hostile_table import Outcome, doors_of, make_base, run_case

# One command, in turn, for every second file; everything at night.
FEW = [(case, doors[n % len(doors)]) for n, case in enumerate(CASES[::2]) for doors in [doors_of(case)]]
REST = [(case, door) for case in CASES for door in doors_of(case) if (case, door) not in FEW]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A harmless model."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def send(base: Base, tmp_path: Path, fresh: None) -> Any:
    """Sends a case through a command."""
    return lambda case, door: run_case(case, door, base, tmp_path)


@pytest.fixture
def fresh() -> Any:
    """Undoes what commands leave in the process."""
    from xlm.utils.instantiate import clear_components

    yield
    clear_components()


@pytest.mark.parametrize(("case", "door"), FEW, ids=[f"{case.name}-{door}" for case, door in FEW])
def test_one_sentence_and_nothing_else(case: Case, door: str, send: Any) -> None:
    check(case, door, send)


@pytest.mark.slow  # some minutes: every file through every command
@pytest.mark.parametrize(("case", "door"), REST, ids=[f"{case.name}-{door}" for case, door in REST])
def test_through_every_command(case: Case, door: str, send: Any) -> None:
    check(case, door, send)


def check(case: Case, door: str, send: Any) -> None:
    """The answer is one sentence; nothing has run, and nothing is left."""
    found: Outcome = send(case, door)
    assert not found.executed
    assert found.left == ()
    assert "Traceback" not in found.answer
    assert not set("\x1b\x07\u202e") & set(found.answer + found.printed)
    if case.answer and door != "runs":
        assert case.answer in found.answer + found.printed
    # Markup is escaped in pages, and formulas are quoted in tables; a CSV file has no markup.
    assert re.search(r"(?<!\\)<img", found.pages) is None
    assert re.search(r"(^|,)\"?=cmd", found.pages + found.table, re.MULTILINE) is None
    # Damaged files of runs are named on the page or left out of the list.
    is_shown = door in ("report", "runs") or not case.answer
    assert found.code == (0 if is_shown else 1)
    if not is_shown:
        # A pickle's message adds a command that keeps the weights.
        assert len(found.answer.splitlines()) == (3 if "Python objects" in found.answer else 1)


def test_there_are_enough() -> None:
    assert len(CASES) >= 40
    assert {"load", "eval", "generate", "trace", "extract", "hub", "report"} <= {door for _, door in FEW}


def test_the_canary_would_be_seen(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    import xlm
    from xlm.external_models import activate

    monkeypatch.setenv("XLM_MODELS_PATH", str(Path(__file__).parents[1] / "packages/xlm-core/tests/models"))
    monkeypatch.chdir(tmp_path)
    file = setting("global_components.extra", TOUCH)(base, tmp_path, False)
    with pytest.raises(xlm.errors.NotAllowedError):
        xlm.load(file)
    assert not Path("canary").exists()
    xlm.load(file, trust=True)
    assert Path("canary").exists()
    activate({})
