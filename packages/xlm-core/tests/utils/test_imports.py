"""Dotted paths: functions, methods, nested attributes, and every kind of error."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from xlm.commands import Job
from xlm.errors import BadTargetError
from xlm.utils.imports import get_function, get_object


def test_finds_functions_methods_and_attributes() -> None:
    assert get_function("json.loads") is json.loads
    assert get_function("json.decoder.JSONDecoder.decode") is json.JSONDecoder.decode
    assert get_object("json.decoder.NaN") != get_object("json.decoder.NaN")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("loads", "A dotted path such as package.module.name is needed."),
        ("json.", "A dotted path"),
        (".json.loads", "A dotted path"),
        ("json.lods", "has no attribute 'lods'"),
        ("no_such_package.x", "No module named 'no_such_package'"),
        ("json.decoder.NaN", "It is a float, which cannot be called."),
    ],
)
def test_wrong_paths_say_why(path: str, reason: str) -> None:
    with pytest.raises(BadTargetError) as caught:
        get_function(path, key="print_batch_fn")
    assert reason in str(caught.value)
    assert caught.value.target == path
    assert caught.value.key == "print_batch_fn"


def test_a_module_that_fails_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_failing.py").write_text("x = 1\nraise RuntimeError('boo')\n")
    (tmp_path / "toy_importing.py").write_text("import toy_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadTargetError, match=r"RuntimeError: boo \(.*toy_failing\.py:2\)") as caught:
        get_function("toy_failing.run")
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(BadTargetError, match=r"No module named 'toy_not_there' \(.*toy_importing\.py:1\)"):
        get_function("toy_importing.run")


def test_while_a_job_is_imported_garbage_is_rarely_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_job.py").write_text(
        "import gc\nTHRESHOLDS = gc.get_threshold()\ndef run(cfg): return THRESHOLDS\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_threshold()
    first, *others = Job("one", "one_job.run", "help").load()(None)
    assert first >= 100_000
    assert others == list(before[1:])
    assert gc.get_threshold() == before
