"""Prompts in a command line: `--prompt TEXT`, which is always taken literally, and the words after the model."""

from __future__ import annotations

from collections.abc import Sequence

from xlm.errors import ConfigError

FLAG = "--prompt"
#: Jobs that take prompts.
JOBS = ("generate", "trace")


def join_prompts(args: Sequence[str]) -> list[str]:
    """`--prompt TEXT` as the single argument `--prompt=TEXT`, so that nothing reads TEXT as an option or an override.

    Raises:
        ConfigError: `--prompt` is the last argument.
    """
    joined: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == FLAG:
            text = next(rest, None)
            if text is None:
                raise ConfigError(f"{FLAG} needs a text: {FLAG} 'The cat'.", key=FLAG)
            arg = as_prompt(text)
        joined.append(arg)
    return joined


def as_prompt(text: str) -> str:
    """A text as the argument that `prompt_in` reads."""
    return f"{FLAG}={text}"


def prompt_in(arg: str) -> str | None:
    """The text of `--prompt=TEXT`; None for other arguments."""
    return arg.partition("=")[2] if arg.startswith(f"{FLAG}=") else None
