"""How a command line names a checkpoint: the keys, and whether it names anything else; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xlm.errors import ConfigError
from xlm.jobs import BUILT_IN_JOBS

# The section of the configuration in which a job's options are.
SECTIONS = {job.name: job.section for job in BUILT_IN_JOBS.values() if job.section}
PATH_KEYS = ("checkpoint_path", "ckpt_path")
# With one of these the command line composes a configuration of its own.
_COMPOSES = ("experiment", "model", "model_type")


def names_a_checkpoint_alone(overrides: Sequence[str]) -> str | None:
    """The job of a command line that names a checkpoint for it and nothing to compose; else None."""
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    section = SECTIONS.get(said.get("job_type", ""))
    if section is None or any(key in said for key in _COMPOSES):
        return None
    return said["job_type"] if any(said.get(f"{section}.{key}") for key in PATH_KEYS) else None


def with_checkpoint_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """`eval runs/a` and `eval checkpoint=runs/a` with the key of the job's section, `eval.checkpoint_path=runs/a`.

    Raises:
        ConfigError: several checkpoints are named.
    """
    said = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    job = said.get("job_type", "")
    if job not in SECTIONS:
        return tuple(overrides)
    named = [text for text in overrides if _names_one(text)]
    if len(named) > 1:
        paths = " and ".join(text.removeprefix(_KEY) for text in named)
        raise ConfigError(f"xlm {job} takes one checkpoint, and was given {paths}.", key="checkpoint")
    key = f"{SECTIONS[job]}.{PATH_KEYS[0]}"
    return tuple(f"{key}={text.removeprefix(_KEY)}" if text in named else text for text in overrides)


_KEY = "checkpoint="
_OVERRIDE = re.compile(r"[~+]*[\w.@:/-]+=.*", re.DOTALL)


def _names_one(text: str) -> bool:
    """Whether a word is a checkpoint: no override, or a path that looks like one (`runs/a,seed=1`) and is there."""
    if text.startswith((_KEY, "~/")):
        return True
    if text.startswith("~"):  # an override that removes something
        return False
    return _OVERRIDE.fullmatch(text) is None or ("/" in text.partition("=")[0] and Path(text).exists())
