"""Only rank 0 logs, and warnings come once."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from xlm.utils.rank_zero import RankedLogger, get_rank, is_first_process, rank_zero_only, rank_zero_warn, warn_once


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_the_rank_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert get_rank() == 1
    monkeypatch.setenv("RANK", "5")
    assert get_rank() == 5


@pytest.mark.parametrize(
    ("environ", "is_first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),  # the process that a person starts on the second machine
        ({"RANK": "0", "GROUP_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "GROUP_RANK": "1", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_of_all_machines_is_the_first(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], is_first: bool
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first


def test_other_ranks_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    add = rank_zero_only(lambda x: calls.append(x) or len(calls))
    assert add(1) == 1
    monkeypatch.setenv("RANK", "1")
    assert add(2) is None
    assert calls == [1]


def test_warnings_point_at_their_caller() -> None:
    with pytest.warns(UserWarning, match="look here") as caught:
        rank_zero_warn("look here", stacklevel=1)
    assert caught[0].filename == __file__


def test_warn_once_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DeprecationWarning, match="only this once"):
        warn_once("only this once", DeprecationWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_once("only this once", DeprecationWarning)
        monkeypatch.setenv("RANK", "1")
        rank_zero_warn("never on rank 1")


def test_a_ranked_logger_is_silent_elsewhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    quiet, loud = RankedLogger("a.b", rank_zero_only=True), RankedLogger("a.b")
    with caplog.at_level(logging.INFO):
        quiet.info("%d of %d", 1, 2)
        monkeypatch.setenv("RANK", "3")
        quiet.info("not from here")
        loud.warning("from here")
        loud.info("for rank 1", rank=1)
        loud.info("for rank 3", rank=3)
    assert [r.getMessage() for r in caplog.records] == ["1 of 2", "[rank 3] from here", "[rank 3] for rank 3"]
    assert caplog.records[0].filename == "test_rank_zero.py"


def test_it_does_not_import_torch() -> None:
    code = "import sys, xlm.utils.rank_zero; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
