"""Programs of models: what they print, and that no mistake in one harms or delays the caller."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from xlm.tasks.sandbox import Limits, Ran, run_python

SHORT = Limits(seconds=1.0)


def test_a_program_runs_with_the_standard_library() -> None:
    assert run_python("import math\nprint(math.comb(5, 2), 'é')") == Ran("ok", "10 é\n")
    assert run_python("if __name__ == '__main__':\n    print('main')").output == "main\n"
    assert run_python("") == Ran("ok", "")


@pytest.mark.parametrize(
    "program",
    ["1 / 0", "def f(:", "raise SystemExit(3)", "import os; os.abort()", "import numpy", "\ud800", "\0",
     "x = [0] * 10**12", "def f(): f()\nf()", "input()"],
)  # fmt: skip
def test_what_fails_is_an_error(program: str) -> None:
    assert run_python(program).outcome == "error"


def test_an_endless_program_ends() -> None:
    started = time.monotonic()
    assert run_python("print('a', flush=True)\nwhile True: pass", SHORT) == Ran("timeout", "a\n")
    assert run_python("import time\ntime.sleep(100)", SHORT).outcome == "timeout"
    assert time.monotonic() - started < 10


def test_a_flood_of_output_is_cut_off() -> None:
    ran = run_python("while True: print('x' * 1000)", Limits(seconds=5, file_size=100_000))
    assert ran.outcome == "error"
    assert len(ran.output) == 100_000
    assert run_python("open('a', 'w').write('x' * 10**8)", SHORT).outcome == "error"


def test_it_sees_no_environment_and_an_empty_folder_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    ran = run_python("import os, sys\nprint(os.getcwd(), sorted(os.listdir()), os.environ.get('SECRET'), sys.argv)")
    folder, _, rest = ran.output.partition(" ")
    assert rest == "['output', 'program.py'] None ['program.py']\n"
    assert not Path(folder).exists()
    assert run_python("import sys\nprint('site' in sys.modules, sys.flags.isolated)").output == "False 1\n"


def test_processes_that_it_starts_end_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    program = f"""
import os, time
if os.fork() == 0:
    time.sleep(2)
    open({str(mark)!r}, "w").close()
    os._exit(0)
print("started")
"""
    ran = run_python(program)
    # Root starts processes in spite of the limit; they are killed.
    assert ran.output in ("started\n", "")
    time.sleep(2.5)
    assert not mark.exists()
