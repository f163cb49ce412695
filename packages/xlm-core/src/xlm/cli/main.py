"""The console command: finds the job in the table and calls it; an error becomes one short message."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from xlm.errors import (
    NotLearntError,
    OutOfMemoryError,
    RankLostError,
    StorageError,
    TrainingInterrupted,
    XLMError,
    printable,
)
from xlm.utils.closed_output import discard, lasting_streams
from xlm.utils.rank_zero import is_first_process
from xlm.utils.secrets import without_secrets

HELP_FLAGS = ("-h", "--help", "help")
INTERRUPTED = 130
# As a shell reports a process that SIGPIPE has ended.
CLOSED_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run `xlm <argv>` (by default this process's arguments) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Print UTF-8 whatever the encoding of the terminal; characters without UTF-8 are escaped.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with lasting_streams():
        return _main(args)


def _main(args: list[str]) -> int:
    try:
        code = _dispatch(args)
        # If the reader (`| head`) is gone, the error comes here and not at exit.
        sys.stdout.flush()
        return code
    except XLMError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) is gone, so nothing may be flushed to it at exit.
        discard(sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        readable = StorageError.of(error)
        if readable is None:
            raise
        _flush_or_discard()
        readable.__cause__ = error
        report(readable)
        return readable.exit_code
    except (MemoryError, RuntimeError) as error:
        lacking = OutOfMemoryError.of(error)
        if lacking is None:
            raise
        lacking.__cause__ = error
        report(lacking)
        return lacking.exit_code


def _flush_or_discard() -> None:
    """Standard output may be a file on the full disk: then nothing may be flushed to it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout.fileno())


def report(error: XLMError) -> None:
    """Print the message on stderr, and before it the traceback if HYDRA_FULL_ERROR=1."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    if isinstance(error, RankLostError) and error.is_quiet:
        return
    if isinstance(error, TrainingInterrupted | NotLearntError) and not is_first_process():
        return  # all processes of a run end together
    prefix = "" if isinstance(error, TrainingInterrupted) or not error.label else f"{error.label}: "
    print(without_secrets(printable(f"{prefix}{error}")), file=sys.stderr)


def _dispatch(args: list[str]) -> int:
    from xlm.commands.prompt_words import join_prompts

    args = join_prompts(args)
    if not args or any(arg in HELP_FLAGS[:2] for arg in args) or args[0] == HELP_FLAGS[2]:
        from xlm.cli.help import print_help

        return print_help(args)
    if args == ["--version"]:
        from xlm import __version__

        print(f"xlm {__version__}")
        return 0
    from xlm.commands import standalone_job

    job = standalone_job(args)
    if job is not None:
        from xlm.commands.words import run_standalone

        return run_standalone(job, args)
    from xlm.cli.run import run_job

    return run_job(args)
