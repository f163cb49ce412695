"""What a configuration from elsewhere may name: classes and functions that are made for configurations, no others.

A configuration names Python objects: `_target_` nodes, and dotted paths such as `update_fn: xlm.metrics.…`. The user's
own files and command line may name anything. A configuration that is stored with a checkpoint, in an exported folder or
on the hub may name only

- what the configuration files of core, of active models and of the user's own folders name, and the documented parts of
  core in `PUBLIC`;
- classes that an active model package defines;
- classes of core and of libraries that extend one of the bases in `FAMILIES`.

An object must be defined where its path says: nothing is reached through the imports of another module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from xlm.errors import BadTargetError, ConfigError, NotAllowedError, XLMError, as_line
from xlm.external_models import active_config_dirs, active_models, core_config_dir
from xlm.moved import MODULES, NAMES
from xlm.utils.imports import get_object
from xlm.utils.secrets import without_secrets

# Parts of core that are documented for configurations, besides those that its own files name.
PUBLIC = {
    "xlm.datamodule": (
        "BertTokenizerFast", "BertTokenizerFast.from_pretrained", "DatasetManager", "EvalDatasetManager",
        "GPT2TokenizerFast", "GPT2TokenizerFast.from_pretrained", "LocalDatasetManager", "SimpleSpaceTokenizer",
        "SimpleSpaceTokenizer.for_numbers", "TextDataModule", "UnconditionalGenerationDatasetManager", "chat_to_ids",
        "ids_to_example_fn", "load_auto_tokenizer", "pack_sequences", "print_batch", "prompt_and_answer_to_ids",
        "text_to_input_ids", "token_ids_to_input_ids", "token_ids_to_input_ids_and_prompt_ids",
    ),
    "xlm.metrics": (
        "exact_match_update_fn", "infill_token_accuracy_update_fn", "length_loss_update_fn", "mean_loss_update_fn",
        "seq2seq_exact_match_update_fn", "seq2seq_token_accuracy_update_fn", "steps_taken_update_fn",
        "token_accuracy_update_fn", "token_ce_update_fn",
    ),
    "xlm.utils.rich_utils": ("print_batch",),
    "xlm.log_predictions": ("LogPredictions",),
    "xlm.noise": ("RescaledSchedule",),
}  # fmt: skip
# Classes below a package or module that extend a base.
FAMILIES = (
    ("torch.optim.lr_scheduler", "torch.optim.lr_scheduler.LRScheduler"),
    ("torch.optim", "torch.optim.Optimizer"),
    ("torch.nn", "torch.nn.Module"),
    ("torchmetrics", "torchmetrics.Metric"),
    ("lightning.pytorch.callbacks", "lightning.pytorch.callbacks.Callback"),
    ("lightning.pytorch.loggers", "lightning.pytorch.loggers.logger.Logger"),
    ("lightning.pytorch.strategies", "lightning.pytorch.strategies.Strategy"),
    ("transformers", "transformers.PretrainedConfig"),
    *(("xlm", base) for base in (
        "torch.nn.Module", "torchmetrics.Metric", "lightning.pytorch.callbacks.Callback", "torch.optim.Optimizer",
        "lightning.pytorch.loggers.logger.Logger", "lightning.pytorch.LightningModule", "xlm.protocols.NoiseSchedule",
        "xlm.protocols.Collator", "xlm.data.manager.DatasetManager", "xlm.tasks.generated.GeneratedExamples",
        "xlm.tasks.corpus_files.CorpusFile",
    )),
)  # fmt: skip
# Metrics that load other networks, from files or from the internet.
_LOAD_NETWORKS = re.compile(r"torchmetrics\.(text|image|audio|video|multimodal|detection|wrappers)\b")
_SCHEDULES = re.compile(r"transformers(\.optimization)?\.get_[a-z0-9_]*schedule[a-z0-9_]*")
# Judges that run programs which the model has written.
RUN_PROGRAMS = ("xlm.tasks.python_code.passes_tests", "xlm.tasks.tinygsm.is_right_program")
# Settings by which harmless functions run code, load pickles, or talk to other servers: allowed values.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "trust_remote_code": (False, None), "weights_only": (True, None), "auto_map": (None,), "proxies": (None,),
    "use_auth_token": (False, None), "use_kernels": (False, None), "allow_pickle": (False, None),
}  # fmt: skip
_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)(?:::|://)")
_SCHEMES = ("https", "hf")
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_DATA_FILES = (
    "json", "jsonl", "txt", "csv", "tsv", "parquet", "arrow", "gz", "zst", "bz2", "xz", "yaml", "yml", "ckpt", "pt",
    "safetensors", "model", "md", "html", "py",
)  # fmt: skip
# Resolvers that read this machine's environment, or make nodes that the check cannot see.
_NO_RESOLVERS = ("oc.env", "oc.decode", "oc.create", "hydra")
_OWN_VARIABLES = ("XLM_ROOT_DIR", "XLM_CACHE_DIR")
# Values that exist only with live objects must be numbers, or the objects themselves.
_LIVE = ("tokenizer", "datamodule", "lightning_module")
_NUMBERS = ("eval", "div_up", "min_int", "max_int")
_LIVE_NUMBER = re.compile(r"(?:[a-z]\w*\.)*(?:full_vocab_size|vocab_size|[a-z]+_token_id|\w*block_size|num_[a-z_]+)")


_ALLOWED = "a class or function that is made for configurations"


# A shipped configuration needs about 300.
_MAX_STEPS = 10_000


class Refusal(NamedTuple):
    """Why a configuration is not used: `reason` follows the words "The configuration in FILE "."""

    key: str
    reason: str


def check_stored(config: DictConfig, source: str | Path, option: str, runs_judges: bool = False) -> None:
    """NotAllowedError if a stored configuration names anything else than the registry, unless it is the user's own.

    Args:
        config: as stored, with its interpolations.
        source: its file, for the message.
        option: how the user allows everything, for the message.
        runs_judges: whether the job calls judges; those that run programs written by the model are then refused.
    """
    found = first_refusal(config, runs_judges)
    if found is not None and not is_own(config):
        raise NotAllowedError(as_line(source), as_line(found.reason), option, key=as_line(found.key))


def first_refusal(config: DictConfig, runs_judges: bool = True) -> Refusal | None:
    """The first part of a configuration that is not allowed; None if all of it is."""
    _listed.cache_clear()  # files of configurations may have changed
    try:
        with _limited_resolution():
            return next(_refusals(config, runs_judges), None)
    except RecursionError:
        return Refusal("", "is nested too deeply")
    except _TooManySteps:
        return Refusal("", f"needs more than {_MAX_STEPS:,} steps to be resolved")


class _TooManySteps(BaseException):
    """Raised through OmegaConf, which wraps every Exception."""


@contextmanager
def _limited_resolution() -> Iterator[None]:
    """Count the interpolations that are resolved: a few values that refer to each other twice need billions."""
    steps, resolve = 0, Container.resolve_parse_tree

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > _MAX_STEPS:
            raise _TooManySteps
        return resolve(*args, **kwargs)

    Container.resolve_parse_tree = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Container.resolve_parse_tree = resolve  # type: ignore[method-assign]


def _refusals(root: DictConfig, runs_judges: bool) -> Iterator[Refusal]:
    for parent, name in nodes_of(root):
        node = parent._get_node(name)
        if OmegaConf.is_config(node) and not node._is_interpolation():
            if str(name) in SETTINGS and not node._is_none():
                yield Refusal(str(node._get_full_key(None)), f"sets {node._get_full_key(None)}")
            continue
        key = str(parent._get_full_key(name))
        raw = node._value() if node is not None else None
        if isinstance(raw, str) and "${" in raw and (reason := _bad_interpolation(raw)):
            yield Refusal(key, f"{reason} ({key})")
            continue
        try:
            value = parent[name]
        except (OmegaConfBaseException, XLMError, ValueError, TypeError, ArithmeticError, LookupError):
            if raw != "???" and (name == "_target_" or not _is_late_number(str(raw))):
                yield Refusal(key, f"has the value {_shown(raw)} at {key}, which cannot be checked")
            continue
        if reason := _bad_value(key, str(name), value, runs_judges):
            yield Refusal(key, reason)


def nodes_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every node below `node`, as its parent and its name."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    if node._is_interpolation():
        return
    parent: Any = node
    for name in range(len(node)) if isinstance(node, ListConfig) else list(node.keys()):
        yield parent, name
        yield from nodes_of(parent._get_node(name))


def _bad_value(key: str, name: str, value: Any, runs_judges: bool) -> str:
    """What is wrong with a value; empty if nothing."""
    if name in SETTINGS and value not in SETTINGS[name]:
        return f"sets {key}={_shown(value)}"
    if name == "_target_":
        if value is None:
            return ""
        path = str(value)
        if path in RUN_PROGRAMS:
            return f"would call '{path}' ({key}), which runs programs"
        return "" if is_allowed(path) else f"would call '{_shown(path)}' ({key}), which is not {_ALLOWED}"
    if not isinstance(value, str):
        return ""
    if name == "attn_implementation" and "/" in value:
        return f"sets {key}={_shown(value)}, which would load code"
    url = _URL.match(value)
    if url is not None and url.group(1).lower() not in _SCHEMES:
        return f"reads from {_shown(value)} ({key})"
    if value in RUN_PROGRAMS:
        return f"names '{value}' ({key}), which runs programs that the model has written" if runs_judges else ""
    if _DOTTED.fullmatch(value) and not is_allowed(value) and _may_be_code(value):
        return f"names '{_shown(value)}' ({key}), which is not {_ALLOWED}"
    return ""


def is_allowed(path: str) -> bool:
    """Whether a stored configuration may name this object. Imports only modules of core, models and known libraries."""
    path = _of_today(path)
    if path in _listed(tuple(active_config_dirs())):
        return True
    if _SCHEDULES.fullmatch(path):
        return True
    parts, packages = path.split("."), _packages()
    prefixes = [(prefix, base) for prefix, base in FAMILIES if path.startswith(f"{prefix}.")]
    if not (parts[0] in packages or prefixes) or not all(part.isidentifier() for part in parts):
        return False
    found = _defined_at(path)
    if not inspect.isclass(found) or _LOAD_NETWORKS.match(found.__module__):
        return False
    return parts[0] in packages or any(get_object(base) in found.__mro__ for _, base in prefixes)


def _packages() -> set[str]:
    return {model.import_name for model in active_models().values()}


def _of_today(path: str) -> str:
    module, _, name = path.rpartition(".")
    return NAMES.get(path) or (f"{MODULES[module]}.{name}" if module in MODULES else path)


def _defined_at(path: str) -> Any:
    """The object that a module of the path's package defines under this path; None otherwise."""
    found = _object_at(path)
    module, name = str(getattr(found, "__module__", "")), str(getattr(found, "__qualname__", ""))
    holder = path.removesuffix(f".{name}")
    if holder == path or holder not in sys.modules or sys.modules[holder].__name__ != holder:
        return None
    # A package may export what its modules define: torch.optim.AdamW is torch.optim.adamw.AdamW.
    package = holder.split(".")[0] if holder.split(".")[0] in _packages() else holder
    return found if f"{module}.".startswith(f"{package}.") else None


def _object_at(path: str) -> Any:
    """The object under a path; None if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old path is named when it is used
        try:
            return get_object(path)
        except BadTargetError:
            return None


def _may_be_code(path: str) -> bool:
    """Whether Python may find a callable object under a dotted path; imports nothing but core and active models."""
    parts = path.split(".")
    if parts[-1].lower() in _DATA_FILES and len(parts) == 2:
        return False
    if parts[0] == "xlm" or parts[0] in _packages():
        return callable(_object_at(path))
    try:
        return importlib.util.find_spec(parts[0]) is not None
    except (ImportError, ValueError):
        return parts[0] in sys.modules


@lru_cache(maxsize=4)
def _listed(folders: tuple[Path, ...]) -> frozenset[str]:
    return _public().union(*(_named_in(folder, _changed(folder)) for folder in (core_config_dir(), *folders)))


def _public() -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in PUBLIC.items() for name in names)


def _changed(folder: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_mtime_ns for file in sorted(folder.rglob("*.yaml")))


@lru_cache(maxsize=64)
def _named_in(folder: Path, _: tuple[int, ...]) -> frozenset[str]:
    """The dotted paths that the configuration files of a folder name, except those that run programs."""
    found: set[str] = set()
    for file in sorted(folder.rglob("*.yaml")):
        if file.relative_to(folder).parts[0] == "hydra":
            continue  # launchers and sweepers are not parts of a run
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        found.update(text for text in _texts(content) if _DOTTED.fullmatch(text))
    return frozenset(found - set(RUN_PROGRAMS))


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)
    elif isinstance(node, str):
        yield node


def _shown(value: Any) -> str:
    text = as_line(value)
    return text if len(text) <= 120 else f"{text[:120]} …"


# Interpolations.


@lru_cache(maxsize=1024)
def _bad_interpolation(text: str) -> str:
    """What is wrong with the resolvers of a text; empty if nothing."""
    try:
        for name, arguments in _resolvers(text):
            if "$" in name:
                return f"computes the name of a resolver, {_shown(text)}"
            if name == "oc.env" and arguments.partition(",")[0].strip() in _OWN_VARIABLES:
                continue
            if name in _NO_RESOLVERS or name.startswith("oc.env"):
                return f"uses the resolver {_shown(f'${{{name}:{arguments}}}')}"
            if name in _LIVE and not _LIVE_NUMBER.fullmatch(arguments.partition(",")[0].strip()):
                return f"reads {_shown(f'${{{name}:{arguments}}}')}"
    except GrammarParseError:
        return f"has an interpolation that cannot be read, {_shown(text)}"
    return ""


def _is_late_number(text: str) -> bool:
    """Whether a text that cannot be resolved yet is one reference, one live object, or one computed number."""
    from omegaconf.grammar_parser import parse

    try:
        children = list(parse(text).getChild(0).getChildren())
    except (GrammarParseError, AttributeError):
        return False
    if len(children) != 1 or not (text.startswith("${") and text.endswith("}")):
        return False
    inner = text[2:-1]
    if re.fullmatch(r"\.*[\w.\[\]-]+", inner):
        return True
    name = inner.partition(":")[0].strip()
    return name in (*_LIVE, "global_components") or (name in _NUMBERS and "${" in inner)


def _resolvers(text: str) -> Iterator[tuple[str, str]]:
    """Name and arguments of every resolver in a text, nested ones included."""
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
    from omegaconf.grammar_parser import parse

    waiting = [parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            given = node.sequence()
            yield node.resolverName().getText(), "" if given is None else given.getText()
        waiting += list(node.getChildren()) if hasattr(node, "getChildren") else []


# Configurations that this user has trained with.


def own_file() -> Path:
    """The list of configurations outside the registry that this user has trained with on this machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "xlm" / "trained_configs"


def remember_own(config: DictConfig) -> None:
    """Note that this user trains with a configuration, if it names more than the registry: then jobs may use it again.

    A home folder that cannot be written to is no error: such a run needs `trust=true` later.
    """
    if first_refusal(config) is None or is_own(config):
        return
    file = own_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("a", encoding="ascii") as opened:
            opened.write(f"{_digest(config)}\n")
    except OSError:
        return


def is_own(config: DictConfig) -> bool:
    """Whether this user has trained with exactly this configuration on this machine."""
    try:
        return _digest(config) in own_file().read_text(encoding="ascii").split()
    except (OSError, ValueError, RuntimeError, RecursionError, ConfigError):
        return False


def _digest(config: DictConfig) -> str:
    return hashlib.sha256(without_secrets(OmegaConf.to_yaml(config, sort_keys=True)).encode()).hexdigest()
