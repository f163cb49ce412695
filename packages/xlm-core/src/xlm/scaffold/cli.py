"""The command `xlm-scaffold`: reads its options, carries out the plan, and prints the files and the next steps."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from xlm.cli.main import INTERRUPTED, report
from xlm.errors import ConfigError, ScaffoldError, XLMError
from xlm.external_models.discovery import MODELS_FILE, PATH_VARIABLE
from xlm.scaffold.plan import Plan, make_plan, write
from xlm.scaffold.project import LAYOUTS, LICENSES, Request
from xlm.scaffold.templates import MINIMAL

NOTHING = "Nothing was written."


def main(argv: Sequence[str] | None = None) -> int:
    """Run `xlm-scaffold <argv>` (by default this process's arguments) and return the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        cwd = _current_directory()
        plan = make_plan(_request(arguments, cwd), os.environ, cwd)
        if not arguments.dry_run:
            with _stoppable():
                write(plan)
    except XLMError as error:
        report(_as_refusal(error))
        return error.exit_code
    except KeyboardInterrupt:
        print(f"Interrupted. {NOTHING}", file=sys.stderr)
        return INTERRUPTED
    try:
        _say(plan, arguments.dry_run, cwd)
    except BrokenPipeError:  # the reader (`| head`) has closed the pipe; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(plan: Plan, dry_run: bool, cwd: Path) -> None:
    print(plan_text(plan, dry_run))
    if not dry_run:
        print(next_text(plan, cwd))
    sys.stdout.flush()
    for warning in plan.warnings:
        print(f"Warning: xlm cannot run until this is fixed: {warning}", file=sys.stderr)


def plan_text(plan: Plan, dry_run: bool = False) -> str:
    """The list of files that are created."""
    request = plan.request
    verb = "Would create" if dry_run else "Created"
    head = f"{verb} {request.shown(plan.root)}/ (template {request.template}, {request.layout} layout):"
    return "\n".join([head, *(f"  {path}" for path in sorted(plan.files)), f"{_listed(plan, dry_run)}"])


def _listed(plan: Plan, dry_run: bool) -> str:
    verb = "Would list" if dry_run else "Listed"
    return f"{verb} it as '{plan.request.name}' in {plan.request.shown(plan.request.output_dir / MODELS_FILE)}."


def next_text(plan: Plan, cwd: Path) -> str:
    """The commands to run next."""
    request = plan.request
    folder = request.output_dir
    seen = _is_searched(folder, cwd)
    lines = ["", "It works as it is. Next:"]
    if not seen:
        lines.append(f"  cd {request.shown(folder)}")
    lines.append("  xlm models")
    for experiment in plan.experiments[:1]:
        lines.append(f"  xlm train job_name=my_model_test experiment={experiment} debug=overfit")
    place = request.shown(plan.root) if seen else request.name
    rest = {f"xlm check {request.name}": "does it keep the contract?", f"grep -rn TODO {place}": "what to change"}
    width = max(map(len, rest)) + 4
    lines += [f"  {command.ljust(width)}# {why}" for command, why in rest.items()]
    return "\n".join(lines)


def _is_searched(folder: Path, cwd: Path) -> bool:
    """Whether `xlm`, run in `cwd`, searches the folder's xlm_models.json."""
    listed = [
        Path(os.path.expanduser(part)) for part in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if part.strip()
    ]
    return folder in [(cwd / place).resolve() for place in (Path("."), Path("xlm-models"), *listed)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}. See xlm-scaffold --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="xlm-scaffold",
        description="Creates a complete model package, ready to train and generate; TODO marks what to change.",
        epilog="Existing files are never overwritten.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the package's name, for instance my_awesome_model")
    parser.add_argument(
        "--template",
        default=MINIMAL,
        help="minimal (the default), or a model that `xlm models` lists, such as arlm or mdlm",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="where to create NAME/ (default: here)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be written without writing it")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="flat",
        help="flat (default): NAME/ is the package; nested: it contains it",
    )
    parser.add_argument("--description", default="", metavar="TEXT", help="one line for pyproject.toml and README.md")
    parser.add_argument("--author", default="", metavar="TEXT", help="'Name' or 'Name <address>'")
    parser.add_argument("--license", choices=tuple(LICENSES), default="apache-2.0", help="default: apache-2.0")
    return parser


def _request(arguments: argparse.Namespace, cwd: Path) -> Request:
    try:
        folder = (cwd / arguments.output_dir.expanduser()).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ScaffoldError(f"{str(arguments.output_dir)!r} is not a usable path: {error}.") from error
    return Request(
        name=arguments.name,
        output_dir=folder,
        template=arguments.template,
        layout=arguments.layout,
        description=arguments.description,
        author=arguments.author,
        license=arguments.license,
    )


def _current_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ScaffoldError("The current directory no longer exists.") from None


def _as_refusal(error: XLMError) -> XLMError:
    """The error with the note that nothing was written."""
    if not isinstance(error, ConfigError):
        error.args = (f"{error} {NOTHING}",)
    return error


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Raise an exception on SIGTERM, so that a stopped scaffold undoes its work."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread can set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
