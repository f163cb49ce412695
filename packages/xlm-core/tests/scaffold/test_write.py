"""All or nothing: whatever fails, and whenever, a scaffold leaves what it found; several at once keep all entries."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from xlm.errors import ScaffoldError
from xlm.scaffold import plan as planning
from xlm.scaffold.plan import Plan, as_json, make_plan, write
from xlm.scaffold.project import Request

OTHERS = '{"other": "somewhere"}'


@pytest.fixture
def plan(work_dir: Path) -> Plan:
    (work_dir / "xlm_models.json").write_text(OTHERS)
    return make_plan(Request("toy_model", work_dir), {}, work_dir)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("a bug")])
@pytest.mark.parametrize("place", ["write_text", "rename", "mkdir", "replace"])
def test_a_failure_anywhere_changes_nothing(
    plan: Plan, work_dir: Path, tree: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
) -> None:
    before = tree(work_dir)
    original = getattr(Path, place)
    calls = 0

    def fail(self: Path, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if place in ("rename", "replace") or calls == 5:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, place, fail)
    with pytest.raises(ScaffoldError if isinstance(error, OSError) else type(error)) as caught:
        write(plan)
    monkeypatch.undo()
    assert tree(work_dir) == before
    if isinstance(error, OSError):
        assert str(caught.value) == f"{work_dir} cannot be written to: No space left on device."


def test_a_models_file_that_was_broken_meanwhile_takes_the_package_back(plan: Plan, work_dir: Path, tree: Any) -> None:
    (work_dir / "xlm_models.json").write_text("{")
    before = tree(work_dir)
    with pytest.raises(Exception, match="cannot be read as JSON"):
        write(plan)
    assert tree(work_dir) == before


def test_a_target_that_appeared_meanwhile_is_kept(plan: Plan, work_dir: Path, tree: Any) -> None:
    plan.root.mkdir()
    before = tree(work_dir)
    with pytest.raises(ScaffoldError, match="already exists"):
        write(plan)
    assert tree(work_dir) == before


def test_new_parents_are_taken_back(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(Request("toy_model", work_dir / "a" / "b"), {}, work_dir)

    def fail(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(planning, "add_entry", fail)
    with pytest.raises(ScaffoldError, match="Read-only file system"):
        write(plan)
    assert os.listdir(work_dir) == []


def test_links_and_permissions_of_the_models_file_stay(plan: Plan, work_dir: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    (work_dir / "xlm_models.json").rename(real)
    real.chmod(0o640)
    (work_dir / "xlm_models.json").symlink_to(real)
    write(plan)
    assert (work_dir / "xlm_models.json").readlink() == real
    assert json.loads(real.read_text()) == {"other": "somewhere", "toy_model": "toy_model"}
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_the_folder_has_the_usual_permissions(plan: Plan, work_dir: Path) -> None:
    (work_dir / "usual").mkdir()
    write(plan)
    assert plan.root.stat().st_mode == (work_dir / "usual").stat().st_mode
    assert sorted(os.listdir(work_dir)) == ["toy_model", "usual", "xlm_models.json"]


def test_several_at_once_keep_all_entries(plan: Plan, work_dir: Path) -> None:
    plans = [make_plan(Request(f"toy_{n}", work_dir), {}, work_dir) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, plans))
    listed = json.loads((work_dir / "xlm_models.json").read_text())
    assert listed == {"other": "somewhere", **{f"toy_{n}": f"toy_{n}" for n in range(6)}}


def test_entries_that_only_escapes_can_spell() -> None:
    text = as_json([("a", "\ud800"), ("b", "ü"), ("b", '\\ "')])
    assert json.loads(text, object_pairs_hook=list) == [("a", "\ud800"), ("b", "ü"), ("b", '\\ "')]
    assert '"ü"' in text
    text.encode("utf-8")


STOPPED = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
import xlm.scaffold.cli as cli
original = pathlib.Path.write_text
def slow(self, *args, **kwargs):
    print("writing", flush=True)
    time.sleep(60)
    return original(self, *args, **kwargs)
pathlib.Path.write_text = slow
sys.exit(cli.main(["toy_model"]))
"""


@pytest.mark.parametrize(("signum", "leftovers"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)])
def test_a_scaffold_that_is_stopped_half_way(work_dir: Path, signum: signal.Signals, leftovers: int) -> None:
    (work_dir / "xlm_models.json").write_text(OTHERS)
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=work_dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.1)
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    assert (work_dir / "xlm_models.json").read_text() == OTHERS
    # Killed at once, it leaves a hidden folder that nothing looks at; the same command then works.
    hidden = [name for name in os.listdir(work_dir) if name != "xlm_models.json"]
    assert len(hidden) == leftovers
    assert all(name.startswith(".toy_model.") for name in hidden)
    if not leftovers:
        assert (process.returncode, err) == (130, "Interrupted. Nothing was written.\n")
    write(make_plan(Request("toy_model", work_dir), {}, work_dir))
