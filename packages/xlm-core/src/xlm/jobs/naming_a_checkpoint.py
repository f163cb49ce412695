"""How a command line names a checkpoint: the keys, and whether it names anything else; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

# The section of the configuration in which a job's options are.
SECTIONS = {
    "eval": "eval", "generate": "generation", "sweep_sampler": "sweep", "extract_checkpoint": "extract",
    "push_to_hub": "hub",
}  # fmt: skip
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
