"""Streams whose reader is gone, and signals of a closed terminal, one write and one signal at a time."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlm.errors import TrainingInterrupted
from xlm.training.guards import GracefulSignals, raising_on_sigterm
from xlm.utils.closed_output import _Output, lasting_streams, watching_output
from xlm.utils.consoles import plain_console


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """The signal as a terminal has it, even if the tests were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def closed() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_without_a_watcher_writing_ends_the_command(closed: int) -> None:
    with pytest.raises(BrokenPipeError):
        _Output(closed, is_standard_output=True).write(b"x")


def test_with_a_watcher_the_rest_is_discarded(closed: int) -> None:
    calls: list[int] = []
    output = _Output(closed, is_standard_output=True)
    with watching_output(lambda: calls.append(1)):
        assert output.write(b"abc") == 3
        assert output.write(b"de") == 2
    assert calls == [1]
    assert output.write(b"f") == 1


def test_standard_error_is_discarded_in_any_case(closed: int) -> None:
    assert _Output(closed, is_standard_output=False).write(b"abc") == 3


def test_a_full_disk_is_not_a_closed_pipe() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with watching_output(lambda: None), pytest.raises(OSError, match="No space left") as caught:
            _Output(full, is_standard_output=True).write(b"x")
        assert caught.value.errno == errno.ENOSPC
    finally:
        os.close(full)


def test_streams_are_replaced_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    with path.open("w", encoding="latin-1") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with lasting_streams():
            assert sys.stdout is not file
            print("größe 模型")
            plain_console().print("[x] more")
        assert sys.stdout is file
        print("after")
    assert path.read_text(encoding="utf-8") == "größe 模型\n[x] more\nafter\n"
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_streams():
        assert sys.stdout is stream  # of a notebook


def test_a_console_passes_a_closed_pipe_on(closed: int) -> None:
    file = io.TextIOWrapper(io.BufferedWriter(_Output(closed, is_standard_output=True)), line_buffering=True)
    console = plain_console(file=file)
    with pytest.raises(BrokenPipeError):
        console.print("x")
    with watching_output(lambda: None):
        file.flush()


def test_a_closed_terminal_and_pipe_are_noted_any_number_of_times(capsys: pytest.CaptureFixture[str]) -> None:
    with GracefulSignals() as signals:
        for _ in range(3):  # by the system and by the shell
            signal.raise_signal(signal.SIGHUP)
        assert signals.received == signal.SIGHUP
        assert capsys.readouterr().err == "\nStopping after this step.\n"
        signal.raise_signal(signal.SIGTERM)  # as a session that ends sends it next
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_closed_pipe_is_noted(closed: int) -> None:
    with GracefulSignals() as signals:
        _Output(closed, is_standard_output=True).write(b"x")
        assert signals.received == signal.SIGPIPE
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT


def test_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising_on_sigterm(), GracefulSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_training_a_closed_terminal_ends_in_order() -> None:
    with pytest.raises(SystemExit) as caught, raising_on_sigterm():
        signal.raise_signal(signal.SIGHUP)
    assert caught.value.code == 129


@pytest.mark.parametrize(
    ("signum", "code", "start"),
    [
        (signal.SIGHUP, 129, "The terminal was closed (SIGHUP); saved last.ckpt.\n"),
        (signal.SIGPIPE, 141, "Standard output was closed (SIGPIPE); saved last.ckpt.\n"),
        (signal.SIGTERM, 143, "Interrupted by SIGTERM; saved last.ckpt.\n"),
    ],
)
def test_what_is_printed(signum: int, code: int, start: str) -> None:
    error = TrainingInterrupted(signum, "last.ckpt")
    assert error.exit_code == code
    assert str(error).startswith(start)
