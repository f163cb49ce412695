"""Tests of measuring how fast commands answer."""

import pytest

import bench


def test_a_table_and_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "DOORS", {"true": 5.0})
    assert bench.main(["--runs", "1"]) == 0
    monkeypatch.setattr(bench, "DOORS", {"true": -1.0})
    assert bench.main(["--runs", "2"]) == 1
    assert capsys.readouterr().out.count("true") == 2


def test_a_command_that_fails_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "DOORS", {"false": 5.0})
    with pytest.raises(RuntimeError, match="false ended with 1"):
        bench.main(["--runs", "1"])
