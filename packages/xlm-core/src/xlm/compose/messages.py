"""Turns the exceptions of Hydra and OmegaConf into short messages: what was asked, what there is, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from xlm.compose.search import config_files, group_members, nearest_keys, searched_places
from xlm.errors import BadTargetError, ConfigError, MissingConfigError, XLMError, did_you_mean, nearest_names
from xlm.external_models import Discovery
from xlm.utils.instantiate import explain

FOREIGN_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
MAX_OPTIONS = 40

_WHERE = re.compile(r"^In '([^']+)': ")
_NOT_FOUND = re.compile(r"Could not (?:find|load) '([^']+)'")
_NO_OVERRIDE = re.compile(r"Could not override '([^']+)'")
_NO_DELETE = re.compile(r"Could not delete from config\. '([^']+)' does not exist")
_NOT_CHOSEN = re.compile(r"You must specify '([^']+)', e\.g")


@contextmanager
def readable_errors(found: Discovery | None = None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Raise an XLMError in place of any error of Hydra's, OmegaConf's or YAML's inside the block."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        readable = translate(error, found, overrides)
        raise readable from error


def translate(error: Exception, found: Discovery | None = None, overrides: Sequence[str] = ()) -> Exception:
    """The XLMError to show instead of `error`; `error` itself when a target failed inside."""
    ours = _ours_in_chain(error)
    if ours:
        return ours
    if isinstance(error, InstantiationException):
        return explain(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error, found)
    text = str(error)
    if isinstance(error, OverrideParseException):
        detail = [line for line in text.splitlines() if not line.startswith(("See https", "Error parsing"))]
        return ConfigError(
            "\n".join([f"Error parsing override '{error.override}'", *detail]), key=error.override
        )
    if isinstance(error, MissingMandatoryValue):
        return _missing_value(error)
    if isinstance(error, OmegaConfBaseException):
        return ConfigError(_omegaconf_text(error), key=error.full_key)
    for pattern, describe in ((_NOT_CHOSEN, _not_chosen), (_NO_OVERRIDE, _no_key), (_NO_DELETE, _no_key)):
        match = pattern.search(text)
        if match:
            return describe(match.group(1), overrides)
    return ConfigError(_short(text))


def add_target_file(error: BadTargetError) -> BadTargetError:
    """The same error with the configuration file that names the target, if a searched one does."""
    if error.config_file:
        return error
    line = re.compile(rf"['\"\s:]{re.escape(error.target)}['\"\s]")
    for path in config_files():
        if line.search(path.read_text(encoding="utf-8", errors="replace") + "\n"):
            named = BadTargetError(error.target, error.reason, key=error.key, config_file=path)
            named.__cause__ = error.__cause__
            return named
    return error


def _ours_in_chain(error: BaseException | None) -> XLMError | None:
    """Our own error that a resolver raised and OmegaConf wrapped."""
    while error is not None:
        if isinstance(error, XLMError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _missing_config(error: MissingConfigException, found: Discovery | None) -> ConfigError:
    text = str(error)
    match = _NOT_FOUND.search(text)
    name = error.missing_cfg_file or (match.group(1) if match else "")
    group, _, member = name.rpartition("/")
    options = sorted(set(error.options or group_members(group)))
    lines = [f"Could not find '{name}'"]
    where = _WHERE.match(text)
    if where and where.group(1) != "config":
        lines[0] += f", which '{where.group(1)}' names"
    lines += [f"Model '{model}': {reason}" for model, reason in _unusable_reasons(name, found)]
    lines += [hint] if (hint := did_you_mean(nearest_names(member, options))) else []
    lines.append(
        f"In '{group}' there are: {_listed(options)}" if options else f"There is no group '{group}'."
    )
    lines.append("Searched: " + ", ".join(searched_places()))
    return MissingConfigError("\n".join(lines), name=name, options=options)


def _unusable_reasons(name: str, found: Discovery | None) -> list[tuple[str, str]]:
    """Models that were listed but cannot be used, if `name` asks for one: why, once more."""
    words = re.split(r"[/_+]", name)
    unusable = found.unusable if found else {}
    return [
        (model, str(reason).splitlines()[0])
        for model, reason in unusable.items()
        if model in words or name.endswith((f"/{model}", f"_{model}"))
    ]


def _not_chosen(group: str, overrides: Sequence[str]) -> ConfigError:
    options = group_members(group)
    experiments = group_members("experiment")
    lines = [f"No {group} is chosen: say {group}=… or experiment=…"]
    lines.append(f"{group}: {_listed(options)}")
    lines.append(f"experiment: {_listed(experiments)}")
    return ConfigError("\n".join(lines), key=group)


def _no_key(key: str, overrides: Sequence[str]) -> ConfigError:
    """A misspelt override: which key is unknown, and the nearest ones."""
    override = next((text for text in overrides if text.lstrip("+~").split("=")[0] == key), f"{key}=…")
    unknown, nearest = nearest_keys(key, [text for text in overrides if text != override])
    lines = [f"Key '{unknown}' is not in the configuration (override '{override}')."]
    lines += [hint] if (hint := did_you_mean(nearest)) else []
    if not override.startswith("~"):
        lines.append(f"To add a new key, write +{override}")
    return ConfigError("\n".join(lines), key=key)


def _missing_value(error: MissingMandatoryValue) -> ConfigError:
    key = error.full_key or "?"
    return ConfigError(f"'{key}' has no value yet (???). Set it: {key}=…", key=key)


def _omegaconf_text(error: OmegaConfBaseException) -> str:
    first = (error.msg or str(error)).splitlines()[0]
    key = f" (key '{error.full_key}')" if error.full_key and error.full_key not in first else ""
    return f"{first}{key}"


def _short(text: str, max_lines: int = 6) -> str:
    """Hydra's message without its search path, its link and blank lines."""
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


def file_in_yaml_error(error: yaml.YAMLError) -> Path | None:
    """The file that a YAML error is about, if it knows."""
    mark = getattr(error, "problem_mark", None)
    return Path(mark.name) if mark is not None and Path(mark.name).is_file() else None
