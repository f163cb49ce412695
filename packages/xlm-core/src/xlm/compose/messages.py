"""Turns exceptions of Hydra and OmegaConf into short messages: what was given, what exists, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from xlm.compose.overrides import without_pluses
from xlm.compose.own_data import AUTOMATIC
from xlm.errors import (
    BadTargetError,
    ConfigError,
    MissingConfigError,
    OutOfMemoryError,
    StorageError,
    XLMError,
    did_you_mean,
    nearest_names,
)
from xlm.external_models import Discovery, active_config_dirs, active_models, core_config_dir
from xlm.external_models.discovery import switched_off_error
from xlm.utils.instantiate import explain


def config_folders() -> list[Path]:
    """Folders of configs: core's, then those of the active models, then the user's own."""
    return list(dict.fromkeys([core_config_dir(), *active_config_dirs()]))


def config_files() -> Iterator[Path]:
    """All YAML files in those folders."""
    for folder in config_folders():
        yield from sorted(folder.rglob("*.yaml"))


def group_members(group: str) -> list[str]:
    """The files of `group` in all folders, sorted."""
    return sorted({path.stem for folder in config_folders() for path in (folder / group).glob("*.yaml") if group})


def group_names() -> list[str]:
    """The groups at the top of all folders, sorted."""
    return sorted({path.name for folder in config_folders() for path in folder.glob("[!_]*/")})


def searched_places() -> list[str]:
    """The owners of the searched folders, in order."""
    models = active_models().values()
    own = [folder for folder in active_config_dirs() if folder not in {model.config_dir for model in models}]
    return ["xlm-core", *(model.provider for model in models), *map(str, own)]


def nearest_keys(key: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The part of the dotted `key` that is not in the configuration of `overrides`, and the nearest full keys.

    Keys that end in `key` come first: `lr` means `optimizer.lr`. If the configuration cannot be composed (`overrides`
    has other errors), only the names of groups are searched.
    """
    composed = _compose_or_none(overrides)
    node: Any = OmegaConf.to_container(composed, resolve=False) if composed is not None else {}
    parts = key.split(".")
    if ends := keys_ending_in(parts, node):
        return key, ends[:_MOST_KEYS]
    for depth, part in enumerate(parts):
        prefix = ".".join(parts[:depth])
        known = [str(name) for name in node] if isinstance(node, dict) else []
        if depth == 0:
            known += group_names()
        if part not in known:
            dotted = [f"{prefix}.{name}" if prefix else name for name in nearest_names(part, dict.fromkeys(known))]
            return ".".join(parts[: depth + 1]), dotted
        node = node.get(part) if isinstance(node, dict) else None
    return key, []


# A key is only proposed if few share its end.
_MOST_KEYS = 3
# What Hydra and the loaders of data repeat; nobody sets it there.
_NOT_PROPOSED = ("datamodule", "reported_metrics", "diagnostic_metrics", "collators", "callbacks", "loggers")


def keys_ending_in(parts: Sequence[str], node: Any) -> list[str]:
    """The dotted keys of a configuration that end in `parts`, the shortest first.

    A key whose value only refers to another key, such as a data set's `batch_size`, stands for that one.
    """
    found: dict[str, None] = {}
    for path, value in sorted(paths(node), key=lambda item: len(item[0])):
        if list(path[-len(parts) :]) != list(parts):
            continue
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is not None:
            found.setdefault(reference.group(1))
        elif path[0] not in _NOT_PROPOSED:
            found.setdefault(".".join(path))
    return list(found)


_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([a-z_]\w*(?:\.\w+)*)(?:,null)?\}")


def paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the value of every key below `node`."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield (*path, str(name)), value
            yield from paths(value, (*path, str(name)))


def _compose_or_none(overrides: Sequence[str]) -> DictConfig | None:
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("xlm.configs.lightning_train", version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException):
        return None


FOREIGN_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
MAX_OPTIONS = 40

_WHERE = re.compile(r"^In '([^']+)': ")
_NOT_FOUND = re.compile(r"Could not (?:find|load) '([^']+)'")
_NO_OVERRIDE = re.compile(r"Could not override '([^']+)'")
_NO_DELETE = re.compile(r"Could not delete from config\. '([^']+)' does not exist")
_NO_GROUP = re.compile(r"config group '([^']+)' does not\s+exist")
_NOT_CHOSEN = re.compile(r"You must specify '([^']+)', e\.g")


@contextmanager
def readable_errors(found: Discovery | None = None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Raise an XLMError instead of any error of Hydra, OmegaConf or YAML in a block that composes."""
    try:
        yield
    # Hydra raises ValueError for some choices; OSError and AssertionError for files that hold no mapping, or odd names.
    except (*FOREIGN_ERRORS, ValueError, RecursionError, OSError, AssertionError) as error:
        readable = translate(error, found, overrides)
        raise readable from error


def is_foreign(error: Exception) -> bool:
    """Whether a library's error is about the configuration, or a lack of memory; does not import Lightning."""
    kind = type(error)
    from_lightning = kind.__module__.startswith("lightning.") and kind.__name__ == "MisconfigurationException"
    return from_lightning or isinstance(error, FOREIGN_ERRORS) or OutOfMemoryError.of(error) is not None


def translate(error: Exception, found: Discovery | None = None, overrides: Sequence[str] = ()) -> Exception:
    """The XLMError to show instead of `error`; `error` itself if a target failed inside."""
    ours = _ours_in_chain(error)
    if ours:
        return ours
    if lacking := OutOfMemoryError.of(error):
        return lacking
    if isinstance(error, InstantiationException):
        return explain(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error, found)
    if isinstance(error, UnicodeDecodeError):
        return ConfigError(f"{_not_utf8() or 'A configuration file'} is not UTF-8: {error}.")
    text = without_pluses(str(error))
    overrides = [without_pluses(override) for override in overrides]
    if isinstance(error, OverrideParseException):
        detail = [line for line in text.splitlines() if not line.startswith(("See https", "Error parsing"))]
        typed = without_pluses(str(error.override))
        return ConfigError("\n".join([f"Error parsing override '{typed}'", *detail]), key=typed)
    if isinstance(error, MissingMandatoryValue):
        return _missing_value(error)
    if isinstance(error, OmegaConfBaseException):
        return ConfigError(_omegaconf_text(error), key=error.full_key)
    for pattern, describe in _DESCRIPTIONS:
        match = pattern.search(text)
        if match:
            return describe(match.group(1), overrides)
    return ConfigError(_short(text))


def readable_error(
    error: Exception, found: Discovery | None, overrides: Sequence[str], choices: Mapping[str, object]
) -> Exception | None:
    """The XLMError to show instead of what a job raised, with `error` as its cause; None for a bug.

    Args:
        choices: Hydra's, group → member.
    """
    of_disk = StorageError.of(error)
    if of_disk is None and not isinstance(error, XLMError) and not is_foreign(error):
        return None
    readable = of_disk or translate(error, found, overrides)
    if isinstance(readable, BadTargetError):
        readable = locate_target(readable, choices, overrides)
    if readable is not error and readable.__cause__ is None:
        readable.__cause__ = error
    return readable


def locate_target(error: BadTargetError, choices: Mapping[str, object], overrides: Sequence[str]) -> BadTargetError:
    """The same error, with the configuration file that names the target and a command that imports it."""
    model = next((m for m in active_models().values() if error.target.split(".")[0] == m.import_name), None)
    named = BadTargetError(
        error.target,
        error.reason,
        key=error.key,
        config_file=None if any(error.target in text for text in overrides) else _file_of(error.target, choices),
        python_path=model.import_root if model else None,
    )
    named.__cause__ = error.__cause__
    return named


def _file_of(target: str, choices: Mapping[str, object]) -> Path | None:
    """The only searched file that names `target`, or the first one among `choices`."""
    line = re.compile(rf"['\"\s:]{re.escape(target)}['\"\s]")
    files = [path for path in config_files() if line.search(path.read_text("utf-8", errors="replace") + "\n")]
    chosen = [path for path in files if str(choices.get(path.parent.name)) == path.stem]
    return chosen[0] if chosen else files[0] if len(files) == 1 else None


def _not_utf8() -> Path | None:
    """The first searched file that is not UTF-8."""
    for path in config_files():
        try:
            path.read_text("utf-8")
        except UnicodeDecodeError:
            return path
    return None


def _ours_in_chain(error: BaseException | None) -> XLMError | None:
    """The XLMError of a resolver that OmegaConf wrapped."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, XLMError):
            return error
        seen.append(error)  # grammar errors of OmegaConf have themselves as context
        error = error.__cause__ or error.__context__
    return None


def _missing_config(error: MissingConfigException, found: Discovery | None) -> ConfigError:
    text = str(error)
    match = _NOT_FOUND.search(text)
    name = error.missing_cfg_file or (match.group(1) if match else "")
    group, _, member = name.rpartition("/")
    if not group:  # the root config, with --config-name or --config-path
        return ConfigError(_short(text))
    options = group_members(group)
    lines = [f"Could not find '{name}'"]
    where = _WHERE.match(text)
    if where and where.group(1) != "config":
        lines[0] += f", which '{where.group(1)}' names"
    lines += _unusable_reasons(name, found)
    lines += _same_cell(group, member, options)
    lines += [hint] if (hint := did_you_mean(nearest_names(member, {*options, *(error.options or ())}))) else []
    lines.append(f"In '{group}' there are: {_listed(options)}" if options else f"There is no group '{group}'.")
    if name.startswith("hydra/launcher/submitit_"):
        lines.append("This launcher is a package: pip install 'xlm-core[slurm]'.")
    lines.append("Searched: " + ", ".join(searched_places()))
    return MissingConfigError("\n".join(lines), name=name, options=options)


def _same_cell(group: str, member: str, options: Sequence[str]) -> list[str]:
    """For `experiment=<data>_<model>` without a file: the choices that give the same run."""
    for model in active_models() if group == "experiment" else ():
        experiment = member.removesuffix(f"_{model}")
        if experiment != member and experiment in options:
            networks = [name for name in group_members("model") if name == model or name.endswith(f"_{model}")]
            return [f"It needs no file: experiment={experiment} model_type={model} model={'|'.join(networks)}"]
    return []


def _unusable_reasons(name: str, found: Discovery | None) -> list[str]:
    """The reasons why listed models that `name` may refer to cannot be used."""
    words = re.split(r"[/_+]", name)
    errors = {model: listed.error for model, listed in found.unusable.items()} if found else {}
    errors |= {model: switched_off_error(model) for model in found.switched_off} if found else {}
    return [
        str(error).splitlines()[0]
        for model, error in errors.items()
        if model in words or name.endswith((f"/{model}", f"_{model}"))
    ]


def _not_chosen(group: str, overrides: Sequence[str]) -> ConfigError:
    if f"{AUTOMATIC}=true" in overrides:
        return ConfigError(f"No {group} is chosen. Add {group}=, one of: {_listed(group_members(group))}.", key=group)
    chosen = ", ".join(overrides) or "nothing"
    lines = [f"No {group} is chosen: give {group}=… or experiment=… (so far: {chosen})"]
    lines += [f"{name}: {_listed(group_members(name))}" for name in (group, "experiment")]
    return ConfigError("\n".join(lines), key=group)


def _no_key(key: str, overrides: Sequence[str]) -> ConfigError:
    """The error for a misspelled override, with the unknown key and the nearest ones."""
    override = next((text for text in overrides if text.lstrip("+~").split("=")[0] == key), f"{key}=…")
    unknown, nearest = nearest_keys(key, [text for text in overrides if text != override])
    lines = [f"Key '{unknown}' is not in the configuration (override '{override}')."]
    lines += [hint] if (hint := did_you_mean(nearest)) else []
    if not override.startswith("~"):
        lines.append(f"To add a new key, write +{override}")
    return ConfigError("\n".join(lines), key=key)


def _no_group(group: str, overrides: Sequence[str]) -> ConfigError:
    override = next((text for text in overrides if text.lstrip("+~").startswith(f"{group}@")), f"{group}@…")
    lines = [f"There is no group '{group}' (override '{override}')."]
    lines += [hint] if (hint := did_you_mean(nearest_names(group, group_names()))) else []
    return ConfigError("\n".join(lines), key=group)


_DESCRIPTIONS = ((_NOT_CHOSEN, _not_chosen), (_NO_OVERRIDE, _no_key), (_NO_DELETE, _no_key), (_NO_GROUP, _no_group))


def _missing_value(error: MissingMandatoryValue) -> ConfigError:
    key = error.full_key or "?"
    return ConfigError(f"'{key}' has no value yet (???). Set it: {key}=…", key=key)


def _omegaconf_text(error: OmegaConfBaseException) -> str:
    first = (error.msg or str(error)).splitlines()[0]
    key = f" (key '{error.full_key}')" if error.full_key and error.full_key not in first else ""
    return f"{first}{key}"


def _short(text: str, max_lines: int = 6) -> str:
    """Hydra's message without its search path, links and blank lines."""
    kept = []
    for line in text.splitlines():
        if line.startswith(("Config search path", "See https")):
            break
        if line.strip():
            kept.append(line.rstrip())
    return "\n".join(kept[:max_lines]) or "The configuration cannot be composed."


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names) - MAX_OPTIONS} more)" if len(names) > MAX_OPTIONS else ""
    return (", ".join(names[:MAX_OPTIONS]) or "none") + more
