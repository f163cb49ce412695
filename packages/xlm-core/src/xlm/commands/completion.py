"""`xlm completion bash`: prints a script that completes jobs, config groups and keys in the shell.

The script holds all words, so that Tab doesn't start Python. It is written again after a model package was added.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from xlm.commands import BUILT_IN_JOBS, Job, custom_jobs
from xlm.errors import ConfigError
from xlm.external_models import discover
from xlm.external_models.package import config_dirs_of, core_config_dir

_SHELLS = ("bash",)
# Groups with one member per run: the keys of all members are worth completing.
_GROUPS_WITH_KEYS = ("optimizer", "lr_scheduler", "model", "log_predictions")
# Sections of a model_type that users change.
_SECTIONS_OF_MODEL_TYPES = ("loss", "predictor")
_FIRST_WORDS = ("--help", "--version", "job_type=")
_FLAGS = ("--help", "-m", "--multirun", "--cfg", "--resolve", "--info", "--config-dir")

_SCRIPT = """\
# Completion of xlm for bash, written by `xlm completion bash`.
_xlm_composed='{composed}'
_xlm_words() {{
  case $1 in
    '') echo '{first}' ;;
{cases}
    *) echo "$_xlm_composed" ;;
  esac
}}
_xlm() {{
  local line=${{COMP_LINE:0:COMP_POINT}} job='' sign prefix
  local current=${{line##*[[:space:]]}} words
  read -r -a words <<< "$line"
  # The first word is the job, unless it is still being typed.
  if (( ${{#words[@]}} > 2 )) || [[ ${{#words[@]}} -eq 2 && -z $current ]]; then job=${{words[1]#job_type=}}; fi
  sign=${{current%%[!+~]*}}
  COMPREPLY=($(compgen -P "$sign" -W "$(_xlm_words "$job")" -- "${{current#"$sign"}}"))
  # Before the =, keys and groups; after it, their values.
  local kept=() word
  for word in "${{COMPREPLY[@]}}"; do
    if [[ $current == *=* ]]; then [[ $word == *= ]] || kept+=("$word"); else [[ $word == *=?* ]] || kept+=("$word"); fi
  done
  COMPREPLY=("${{kept[@]}}")
  if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace 2> /dev/null; fi
  # bash replaces only what follows the last = (or :) that separates words.
  if [[ $COMP_WORDBREAKS == *=* && $current == *=* ]]; then
    prefix=${{current%"${{current##*=}}"}}
    COMPREPLY=("${{COMPREPLY[@]#"$prefix"}}")
  fi
}}
complete -o default -F _xlm xlm
"""


def print_completion(words: Sequence[str] = (), options: Any = None) -> int:
    """Print the script for the shell that the words name."""
    if list(words) not in [[shell] for shell in _SHELLS]:
        given = " ".join(words) or "nothing"
        raise ConfigError(f"xlm completion takes the name of a shell: {', '.join(_SHELLS)}. It was given {given}.")
    print(script_for_bash(), end="")
    return 0


def script_for_bash() -> str:
    """The script, with the words of core, of all models that are found, and of the user's own configurations."""
    found = discover(os.environ, Path.cwd())
    custom = [job for job in custom_jobs(found.models)[0] if job.name not in BUILT_IN_JOBS]
    jobs = [*BUILT_IN_JOBS.values(), *custom]
    own = [path for folder in found.folders for path in config_dirs_of(folder)]
    folders = [core_config_dir(), *(model.config_dir for model in found.models.values()), *own]
    composed = [*_FLAGS, *group_words(folders), *keys_in_files(folders), *keys_of(BUILT_IN_JOBS["train"])]
    first = [*(job.name for job in jobs), *_FIRST_WORDS]
    return _SCRIPT.format(
        composed=_joined(composed),
        first=_joined([*first, *(f"job_type={job.name}" for job in jobs)]),
        cases="\n".join(_case(job) for job in BUILT_IN_JOBS.values() if job.name not in ("train", "name")),
    )


def _case(job: Job) -> str:
    """What a job completes: its own options, and the configuration if it composes one."""
    own = _joined([*(_SHELLS if job.name == "completion" else ()), "--help", *keys_of(job)])
    if job.is_standalone and "[overrides]" not in job.usage:
        return f"    {job.name}) echo '{own}' ;;"
    return f"    {job.name}) echo \"$_xlm_composed\" '{own}' ;;"


def _joined(words: Iterable[str]) -> str:
    """Words between spaces, each once; those that a shell would read otherwise are left out."""
    return " ".join(word for word in dict.fromkeys(words) if not set(word) & set(" '\"\\$`"))


def keys_of(job: Job) -> Iterator[str]:
    """`key=` for each option of a job, and `key=value` for each choice."""
    from xlm.utils.annotations import options_in

    for schema in job.schemas:
        section = getattr(schema, "section", "")
        for option in options_in(schema).values():
            key = f"{section}.{option.name}=" if section else f"{option.name}="
            yield key
            yield from (f"{key}{choice}" for choice in _choices(option.annotation))


def _choices(annotation: Any) -> list[str]:
    """The words that an annotation allows: those of its literals, and true and false."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    return [choice for each in get_args(annotation) for choice in _choices(each)]


def group_words(folders: Sequence[Path]) -> Iterator[str]:
    """`group=` and `group=member` for the groups of the root configuration; the data without aliases for models."""
    for group in _groups():
        members = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
        if members:
            yield f"{group}="
            yield from (f"{group}={member}" for member in members)


def _groups() -> list[str]:
    defaults = _read(core_config_dir() / "config.yaml").get("defaults", [])
    names = [str(name).removeprefix("override ") for entry in defaults if isinstance(entry, dict) for name in entry]
    return [*names, "hydra/launcher"]


def keys_in_files(folders: Sequence[Path]) -> Iterator[str]:
    """`group.key=` for the values of optimizers, schedules, networks, losses and predictors."""
    for folder in folders:
        for group in _GROUPS_WITH_KEYS:
            for path in sorted((folder / group).glob("*.yaml")):
                values = _read(path)
                yield from (f"{group}.{key}=" for key in values if _is_option(key))
        for path in sorted((folder / "model_type").glob("*.yaml")):
            values = _read(path)
            for section in _SECTIONS_OF_MODEL_TYPES:
                options = values.get(section) or {}
                if isinstance(options, dict):
                    yield from (f"{section}.{key}=" for key in options if _is_option(key))


def _is_option(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("_") and key != "defaults"


def _read(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping; empty if it cannot be read, since a broken model must not stop completion."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
