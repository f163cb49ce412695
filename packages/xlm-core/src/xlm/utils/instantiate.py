"""The one place that turns a `_target_` node into an object, with errors that say which key and why."""

from __future__ import annotations

import copy
import inspect
import re
import traceback
from typing import Any

from omegaconf import OmegaConf

from xlm.errors import BadArgumentError, BadTargetError, ConfigError, XLMError, did_you_mean, nearest_names
from xlm.utils.imports import get_function, get_object, import_reason

_TARGET = re.compile(r"(?:Error locating target|Error in call to target) '([^']+)'")
_FULL_KEY = re.compile(r"^full_key: (\S+)$", re.MULTILINE)
_UNEXPECTED = re.compile(r"unexpected keyword argument '([^']+)'")


def instantiate(config: Any, *args: Any, **kwargs: Any) -> Any:
    """What `hydra.utils.instantiate` gives, or None for None.

    BadTargetError when a `_target_` cannot be imported, BadArgumentError when it doesn't take its arguments;
    an error from inside the target is raised as it is, with its own traceback.
    """
    # hydra 1.4 asks for a list of allowed targets here; 1.3 would hand that keyword to the target.
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    if config is None or (OmegaConf.is_config(config) and config._is_none()):
        return None
    try:
        return hydra_instantiate(_with_objects_allowed(config), *args, **kwargs)
    except InstantiationException as error:
        readable = explain(error)
        if readable is error.__cause__:
            raise readable from readable.__cause__
        raise readable from error


def _with_objects_allowed(config: Any) -> Any:
    """The same node in a copy of its whole tree that may hold live objects.

    Hydra resolves interpolations in place: `${collators.lm}` would put the tokenizer, which that node interpolates,
    into the run's own config, which refuses it and is written to disk later.
    """
    if not OmegaConf.is_config(config):
        return config
    root = copy.deepcopy(config._get_root())
    root._set_flag("allow_objects", True)
    key = config._get_full_key(None)
    return OmegaConf.select(root, key) if key else root


def explain(error: Exception) -> Exception:
    """What to raise instead of Hydra's InstantiationException: ours for a user's mistake, else the cause itself."""
    text, cause = str(error), error.__cause__
    found = _TARGET.search(text)
    target = found.group(1) if found else ""
    key_found = _FULL_KEY.search(text)
    key = key_found.group(1) if key_found else None
    if text.startswith("Error locating target"):
        return BadTargetError(target, _location_reason(target, cause), key=key)
    if isinstance(cause, XLMError):
        return cause
    if isinstance(cause, TypeError) and _raised_by_the_call(cause):
        return BadArgumentError(target, str(cause), key=key, hint=_argument_hint(target, str(cause)))
    if text.startswith("Error in call to target") and isinstance(cause, Exception):
        return cause
    return ConfigError(_FULL_KEY.sub("", text).strip() + (f"\nKey: {key}" if key else ""), key=key)


def _location_reason(target: str, cause: BaseException | None) -> str:
    """Our own search names a missing attribute, where Hydra's tries to import it as a module."""
    try:
        get_object(target)
    except BadTargetError as error:
        return error.reason
    return import_reason(cause)


def _raised_by_the_call(error: TypeError) -> bool:
    """Whether the signature refused the arguments: then no frame of the target itself ran."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/hydra/_internal/" in frames[-1].filename.replace("\\", "/")


def _argument_hint(target: str, reason: str) -> str:
    try:
        taken = [name for name in inspect.signature(get_function(target)).parameters if name != "self"]
    except (BadTargetError, TypeError, ValueError):
        return ""  # a builtin without a signature; the reason alone must do
    unexpected = _UNEXPECTED.search(reason)
    hint = did_you_mean(nearest_names(unexpected.group(1), taken, 1)) if unexpected else ""
    return f"It takes: {', '.join(taken) or 'nothing'}. {hint}".rstrip()
