"""Warm commands: streams, folder, variables, exit status and signals are those of a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import warm_xlm
from warm_xlm import Server, at_import

COLD = str(Path(sys.executable).with_name("xlm"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(str(tmp_path_factory.mktemp("warm") / "socket"), dict(os.environ))
    yield server
    server.close()
    assert not Path(server.path).exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["name", "experiment=nothing_like_it"], ["name", "seed=1"], []])
def test_prints_and_ends_as_a_cold_one(server: Server, tmp_path: Path, arguments: list[str]) -> None:
    cold, warm = (
        subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        for program in ([COLD], server.command)
    )
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


@pytest.mark.slow
def test_a_pipe_that_nobody_reads(server: Server, tmp_path: Path) -> None:
    shell = f"set -o pipefail; {subprocess.list2cmdline(server.command)} models | true"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_command_says_how_a_signal_ended_it(server: Server, tmp_path: Path) -> None:
    run = [
        *server.command,
        "train",
        "experiment=star_mini_mlm",
        "model=xtiny_mlm",
        "trainer_strategy=cpu",
        "job_name=a",
    ]
    for signum in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while "step" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(signum)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 128 + signum, err


@pytest.mark.slow
def test_a_client_that_is_killed_takes_its_command_along(server: Server, tmp_path: Path) -> None:
    run = [
        *server.command,
        "train",
        "experiment=star_mini_mlm",
        "model=xtiny_mlm",
        "trainer_strategy=cpu",
        "job_name=a",
    ]
    with subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "step" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
        # The stream ends once the copy, which has it too, is gone.
        assert process.stdout.read() is not None


@pytest.mark.slow
def test_other_libraries_variables_mean_a_process_of_its_own(server: Server, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONVERBOSE": "1"}
    command = [sys.executable, "-c", f"import os; os.execv({sys.executable!r}, {[*server.command, '--version']!r})"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "import 'xlm.cli.main'" in done.stderr  # a copy had imported it long ago


def test_without_a_server_it_is_a_plain_command(tmp_path: Path) -> None:
    command = [sys.executable, warm_xlm.__file__, str(tmp_path / "absent"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("xlm")


def test_what_imports_look_at() -> None:
    assert at_import({"HOME": "a", "PYTHONPATH": "b", "XLM_CACHE_DIR": "c", "PATH": "d"}) == {
        "HOME": "a",
        "PYTHONPATH": "b",
    }
