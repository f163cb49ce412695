"""Builds objects from `_target_` nodes, with errors that name the key, and stores a run's components by name."""

from __future__ import annotations

import copy
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.errors import BadArgumentError, BadTargetError, ConfigError, XLMError, did_you_mean, nearest_names
from xlm.utils.annotations import checked
from xlm.utils.imports import get_function, get_object, import_reason

_components: dict[str, Any] = {}


def set_component(name: str, obj: Any) -> None:
    """Store `obj` as the run's `name` (tokenizer, noise_schedule, datamodule, lightning_module, …)."""
    _components[name] = obj


def get_component(name: str) -> Any:
    """The run's component `name`; ConfigError if it is not set (yet)."""
    if name not in _components:
        known = ", ".join(sorted(_components)) or "none"
        hint = did_you_mean(nearest_names(name, _components, 1))
        raise ConfigError(
            f"The component '{name}' does not exist at this point of the run. There are: {known}. {hint}".rstrip(),
            key=name,
        )
    return _components[name]


def has_component(name: str) -> bool:
    """Whether the run has a component `name`."""
    return name in _components


def current_components() -> dict[str, Any]:
    """All components of the run by name."""
    return dict(_components)


def clear_components() -> None:
    """Remove all components, at the end of a run."""
    _components.clear()


@contextmanager
def components(**named: Any) -> Iterator[None]:
    """Replace the components for a block, so that a model can be built next to a run or another model."""
    before = dict(_components)
    _components.clear()
    _components.update(named)
    try:
        yield
    finally:
        _components.clear()
        _components.update(before)


_TARGET = re.compile(r"(?:Error locating target|Error in call to target) '([^']+)'")
_FULL_KEY = re.compile(r"^full_key: (\S+)$", re.MULTILINE)
_UNEXPECTED = re.compile(r"unexpected keyword argument '([^']+)'")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|\bnan\b|\binf\b")
# Python raises these for bugs in code, whatever the values are. Others are raised on purpose.
_BUGS = (TypeError, LookupError, AttributeError, NameError, AssertionError, RecursionError, SyntaxError, SystemError)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MAX_REASON = 300


def is_bug(error: BaseException) -> bool:
    """Whether an error indicates a bug in code; otherwise a library rejects a value, a file or a setting.

    A TypeError or KeyError from a `raise` statement, not from Python itself, counts as a rejection too.
    """
    if isinstance(error, TypeError | LookupError):
        frames = traceback.extract_tb(error.__traceback__)
        return not (frames and (frames[-1].line or "").startswith("raise "))
    return isinstance(error, _BUGS)


def first_sentence(error: BaseException) -> str:
    """The first line of a library's message, without terminal colors."""
    lines = [line.strip() for line in _ANSI.sub("", str(error)).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return said if len(said) <= _MAX_REASON else f"{said[:_MAX_REASON]} …"


def instantiate(config: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of `hydra.utils.instantiate`, or None for None.

    BadTargetError if a `_target_` cannot be imported, BadArgumentError if it doesn't accept its arguments,
    ConfigError if a value does not have the annotated type, or if the target rejects its values: any exception except
    those by which Python indicates a bug, which keep their traceback.
    """
    # Hydra 1.4 expects a list of allowed targets here; 1.3 would pass that keyword to the target.
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    if config is None or (OmegaConf.is_config(config) and config._is_none()):
        return None
    config = _with_objects_allowed(config)
    recursive = bool(kwargs.get("_recursive_", True))
    _check_types(config, kwargs, recursive)
    try:
        return hydra_instantiate(config, *args, **kwargs)
    except InstantiationException as error:
        if error.__cause__ is not None and is_bug(error.__cause__):
            _check_types(config, kwargs, recursive, always=True)
        readable = explain(error, config)
        if readable is error.__cause__:
            raise readable from readable.__cause__
        raise readable from error


@contextmanager
def building(key: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Iterator[None]:
    """For a block that calls `function` with these config values: raises the errors that `instantiate` raises."""
    target = f"{function.__module__}.{function.__qualname__}"
    try:
        yield
    except (XLMError, OmegaConfBaseException):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and _raised_by_the_call(error):
            raise BadArgumentError(target, str(error), key=key, hint=_argument_hint(target, str(error))) from error
        if is_bug(error):
            check_arguments(function, arguments, key)
            raise
        raise refusal(error, key, target, arguments) from error


def refusal(error: Exception, key: str, target: str, arguments: Mapping[str, Any]) -> ConfigError:
    """The ConfigError for an exception of a library or a model: the key, its first sentence, and its source."""
    message = first_sentence(error)
    name = _meant(message, arguments)
    path = ".".join(part for part in (key, name) if part)
    return ConfigError(
        f"{path or target}: {message}\nRaised by {target}; HYDRA_FULL_ERROR=1 shows the traceback.",
        key=path or None,
    )


def _meant(said: str, arguments: Mapping[str, Any]) -> str:
    """The argument that a message is about, if its name or value distinguishes it from the others."""
    numbers = {float(number) for number in _NUMBER.findall(said)}
    scores: dict[str, int] = {}
    for name, value in arguments.items():
        items = value if isinstance(value, list | tuple | ListConfig) else [value]
        number = value not in (0, 1) and any(_is_number(item) and item in numbers for item in items)
        text = isinstance(value, str) and len(value) > 1 and _has_word(said, value)
        scores[name] = 2 * (f"{name}=" in said) + _has_word(said, name) + number + text
    best = max(scores.values(), default=0)
    names = [name for name, score in scores.items() if score == best]
    return names[0] if best and len(names) == 1 else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def check_values(config: Any) -> None:
    """ConfigError as in `instantiate` for a value of the wrong type, in a node that is not built."""
    if OmegaConf.is_config(config):
        _check_types(_with_objects_allowed(config), {}, recursive=True)


def _check_types(config: Any, more: Mapping[str, Any], recursive: bool, always: bool = False) -> None:
    """ConfigError for the first value in a node, or in a nested one, without the type of its parameter.

    By default only if the target's package declares that its annotations are right. `always` is for targets that
    have failed.
    """
    if isinstance(config, dict | list):
        config = OmegaConf.create(config, flags={"allow_objects": True})
    outermost = _key(config)
    for key, function, arguments in _calls(config, recursive):
        if key == outermost:
            arguments |= {name: value for name, value in more.items() if not name.startswith("_")}
        if always or promises_types(function):
            check_arguments(function, arguments, key, strict=always)


def _calls(node: Any, recursive: bool) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Key, target and plain arguments of a node and all nested nodes, if they can be read."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    values: dict[Any, Any] = {}
    names: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else node
    for name in names:
        try:
            values[name] = node[name]
        except (OmegaConfBaseException, XLMError):
            continue  # a missing or late value: Hydra reports it
    function = _function_of(node)
    if function is not None:
        arguments = {name: value for name, value in values.items() if not _has_target(value)}
        yield _key(node), function, {str(n): v for n, v in arguments.items() if not str(n).startswith("_")}
    if recursive and values.get("_recursive_", True) is not False:
        for value in values.values():
            yield from _calls(value, recursive)


def _key(node: Any) -> str:
    return str(node._get_full_key(None) or "") if OmegaConf.is_config(node) else ""


def _has_target(node: Any) -> bool:
    return isinstance(node, DictConfig) and not node._is_none() and "_target_" in node


def _function_of(node: Any) -> Callable[..., Any] | None:
    if not _has_target(node):
        return None
    try:
        return get_function(str(node["_target_"]))
    except (BadTargetError, OmegaConfBaseException):
        return None  # Hydra finds the same, and reports the key


def _with_objects_allowed(config: Any) -> Any:
    """The same node in a copy of its whole tree that may contain live objects; a copy of the node where that is enough.

    Hydra resolves interpolations in place: `${collators.lm}` would put its tokenizer object into the run's config,
    which does not allow objects and is written to disk later. Copying the tree takes 40 ms, and most nodes refer to
    single values only.
    """
    if not OmegaConf.is_config(config):
        return config
    if not _refers_to_nodes(config):
        node = copy.deepcopy(config)  # which keeps its parent
        node._set_flag("allow_objects", True)
        return node
    root = copy.deepcopy(config._get_root())
    root._set_flag("allow_objects", True)
    key = config._get_full_key(None)
    return OmegaConf.select(root, key) if key else root


def _refers_to_nodes(config: Any) -> bool:
    """Whether an interpolation in a node stands for another node, or cannot be resolved."""
    if config._is_interpolation():
        return True
    if config._is_none() or config._is_missing():
        return False
    names: Iterable[Any] = range(len(config)) if isinstance(config, ListConfig) else config.keys()
    for name in names:
        node = config._get_node(name)
        if not node._is_interpolation():
            if OmegaConf.is_config(node) and _refers_to_nodes(node):
                return True
            continue
        try:
            found = node._dereference_node()
        except (OmegaConfBaseException, XLMError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            return True  # Hydra reports it
        if OmegaConf.is_config(found):
            return True
    return False


def explain(error: Exception, config: Any = None) -> Exception:
    """The exception to raise instead of Hydra's InstantiationException: ours for a user's mistake, else the cause.

    `config` is the node; the message names its rejected value.
    """
    text, cause = str(error), error.__cause__
    found = _TARGET.search(text)
    target = found.group(1) if found else ""
    key_found = _FULL_KEY.search(text)
    key = key_found.group(1) if key_found else None
    if text.startswith("Error locating target"):
        return BadTargetError(target, _location_reason(target, cause), key=key)
    if isinstance(cause, XLMError | OmegaConfBaseException):
        return cause
    if isinstance(cause, TypeError) and _raised_by_the_call(cause):
        return BadArgumentError(target, str(cause), key=key, hint=_argument_hint(target, str(cause)))
    if text.startswith("Error in call to target") and isinstance(cause, Exception):
        if is_bug(cause):
            return cause
        return refusal(cause, key or "", target, _arguments_at(config, key))
    return ConfigError(_FULL_KEY.sub("", text).strip() + (f"\nKey: {key}" if key else ""), key=key)


def _arguments_at(config: Any, key: str | None) -> dict[str, Any]:
    """The plain arguments of the node at a key, or of `config` itself without a key."""
    return next((arguments for found, _, arguments in _calls(config, True) if found == (key or "")), {})


def _location_reason(target: str, cause: BaseException | None) -> str:
    """Our own import names a missing attribute, but Hydra's tries to import it as a module."""
    try:
        get_object(target)
    except BadTargetError as error:
        return error.reason
    return import_reason(cause)


def _raised_by_the_call(error: TypeError) -> bool:
    """Whether the signature rejected the arguments: then no frame of the target itself ran."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/hydra/_internal/" in frames[-1].filename.replace("\\", "/")


def _argument_hint(target: str, reason: str) -> str:
    try:
        taken = parameter_names(get_function(target))
    except (BadTargetError, TypeError, ValueError):
        return ""  # a builtin without a signature
    unexpected = _UNEXPECTED.search(reason)
    hint = did_you_mean(nearest_names(unexpected.group(1), taken, 1)) if unexpected else ""
    return f"It takes: {', '.join(taken) or 'nothing'}. {hint}".rstrip()


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], key: str, strict: bool = True) -> None:
    """Raise a ConfigError for the first argument whose type differs from its annotation in `function`.

    Checks only plain values (text, numbers, lists, …; no objects), and only annotations that can be read.

    Args:
        function: a class or a function.
        arguments: by name, for instance `locals()`; names of other variables are ignored.
        key: of the configuration, above the arguments' names.
        strict: reject 3.0 for a whole number.
    """
    parameters: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for parameter, scope in _parameters(function):
        parameters.setdefault(parameter.name, (parameter, scope))
    for name, value in arguments.items():
        if name not in parameters:
            continue
        parameter, scope = parameters[name]
        if not (value is None and parameter.default is None):
            checked(f"{key}.{name}" if key else name, _plain(value), _evaluated(parameter.annotation, scope), strict)


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments of a function or class, including those passed on to base classes."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return list(dict.fromkeys(p.name for p, _ in _parameters(function) if p.kind not in variable))


def promises_types(function: Callable[..., Any]) -> bool:
    """Whether the package of a function declares by a file `py.typed` (PEP 561) that its annotations are right."""
    package = sys.modules.get(str(getattr(function, "__module__", "")).partition(".")[0])
    file = getattr(package, "__file__", None)
    return file is not None and (Path(file).parent / "py.typed").is_file()


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, dict[str, Any]]]:
    """Parameters, with the namespaces in which their annotations are resolved.

    Arguments that an `__init__` takes as `**kwargs` come from the next class.
    """
    makers = [function]
    if inspect.isclass(function):
        makers = [base.__dict__["__init__"] for base in function.__mro__ if "__init__" in base.__dict__]
    for made in makers:
        made = inspect.unwrap(made)
        try:
            parameters = list(inspect.signature(made).parameters.values())
        except (TypeError, ValueError):
            return  # implemented in C, without a signature
        own = parameters[1:] if inspect.isclass(function) else parameters
        yield from ((parameter, getattr(made, "__globals__", {})) for parameter in own)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own):
            return


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """The type of an annotation; Any without one, or if only a type checker can read it."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except Exception:  # noqa: BLE001 - names that are imported for a type checker alone, and whatever they do
        return Any


def _plain(value: Any) -> Any:
    """Lists and mappings of a configuration as Python's own; nodes that become objects are unchanged.

    Missing values are left out: Hydra reports them.
    """
    if not OmegaConf.is_config(value) or value._is_none() or (OmegaConf.is_dict(value) and "_target_" in value):
        return value
    names = list(value) if OmegaConf.is_dict(value) else range(len(value))
    found = {}
    for name in names:
        try:
            found[name] = _plain(value[name])
        except OmegaConfBaseException:
            continue
    return found if OmegaConf.is_dict(value) else list(found.values())
