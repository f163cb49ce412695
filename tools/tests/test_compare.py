"""Tests of training families side by side."""

import json
import os
from pathlib import Path

import pytest

import compare
from warm_xlm import warm_xlm

QUICK = ["trainer.limit_test_batches=1", "trainer.val_check_interval=1000", "trainer.log_every_n_steps=1"]


@pytest.mark.slow  # four runs of a tool that no change of the packages needs
def test_rows_of_two_families_and_then_only_tested_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four starts from one import, where two runs get a thread each.
    warm = warm_xlm(os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"})
    monkeypatch.setattr(compare, "XLM", warm)
    families = ["--families", "arlm", "ilm", "--folder", str(tmp_path), "--parallel", "2", "--data", "star_easy"]
    small = [*QUICK, "model.num_layers=1", "model.d_model=16", "trainer.max_steps=2"]
    assert compare.main([*families, *small]) == 0
    rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    header, _, arlm, ilm = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert header == [column for column in compare.COLUMNS if column != "valid"]
    assert (arlm[0], ilm[0]) == ("arlm", "ilm")
    for row in (arlm, ilm):
        found = dict(zip(header, row, strict=True))
        assert found["steps"] == "2"
        assert all(found.values()), "every column is measured for every family"
    results = json.loads((tmp_path / "star_easy_arlm" / "results.json").read_text())
    assert results["metrics"]["test/prediction/network_calls"] > 0
    assert compare.main([*families, *small]) == 0
    again = json.loads((tmp_path / "star_easy_arlm" / "results.json").read_text())
    assert results["training"]["cpu_seconds"] > 0
    assert again["training"] == results["training"], "what was spent stays"


def test_equal_cpu_time_gives_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = compare.Run("arlm", "star_easy", tmp_path, [])
    costs = {20: 30.0, 80: 60.0}  # 0.5 s a step after 20 s of starting
    monkeypatch.setattr(run, "_xlm", lambda *_: None)
    monkeypatch.setattr(run, "_results", lambda name: {"training": {"cpu_seconds": costs[int(name.rsplit("_", 1)[1])]}})
    assert run._affordable(600.0, 1) == 1200


def test_a_run_that_fails_is_named_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--families", "arlm", "--folder", str(tmp_path), "trainr.max_steps=1"]) == 1
    out = capfd.readouterr().out
    assert "arlm failed" in out
    assert "trainr" in out


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(["--minute", "3", "--familie", "arlm", "--fold", "x", "--nope"])
    assert "--nope" in capsys.readouterr().err
