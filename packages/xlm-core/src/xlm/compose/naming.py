"""A run's default name, from the choices that made its configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from xlm.compose.overrides import OPTIONAL_SECTIONS, SHORT_FORMS
from xlm.errors import ConfigError, as_line

MAX_LENGTH = 150
_MOST_BYTES = 255
# Characters of markup, shells and terminals, and those that cannot be seen; letters of all scripts are allowed.
_UNUSABLE = re.compile(r"[^\w .+=,~@:%()\[\]{}/\-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_AS_NAME = re.compile(r"[^A-Za-z0-9_.+=,~\-]+")
# These choices are in the name anyway, or only locate the run's folder.
_NAMED_ANYWAY = ("experiment", "datamodule", "model", "model_type", "job_type", "debug")
# A change of these keys doesn't make another run: they only say how a run is executed, logged or used.
_SAME_RUN = (
    "job_name", "paths", "hydra", "tags", "trace", "trace_view", "global_flags", "compile", "resume_from_checkpoint",
    "resume_checkpoint_path", "checkpointing_dir", "loggers", "callbacks", "log_predictions", "post_hoc_evaluator",
    "metrics", "reported_metrics", "diagnostic_metrics", "metric_inputs", "predictor", "monitored_metric",
    "monitored_mode", "test_after_training", "test_weights", "per_device_val_batch_size", "num_dataloader_workers",
    "num_dataset_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
    "max_tokens", "trainer_strategy", "trainer.strategy", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs",
    "trainer.val_check_interval", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches",
    "trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.num_sanity_val_steps",
    "trainer.log_every_n_steps", "trainer.enable_checkpointing", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.logger", "trainer.profiler", "trainer.detect_anomaly", "trainer.barebones",
    "datamodule.print_batch_fn", "datamodule.dataset_managers.val", "datamodule.dataset_managers.test",
    "datamodule.dataset_managers.predict", "data_files.val", "data_files.test", "data_files.predict",
    "task.num_examples.val", "task.num_examples.test", "task.judge", "task.judge_options", "checkpoints",
)  # fmt: skip
# How batches are fetched, which doesn't change the batches.
_FETCHING = (".num_workers", ".prefetch_factor", ".persistent_workers", ".pin_memory")
# The training data, which evaluation may remove as a whole (`~…`).
_DATASETS, _TRAIN = "datamodule.dataset_managers.", "datamodule.dataset_managers.train"
_PER_DEVICE, _TOGETHER = "per_device_batch_size", "global_batch_size"


def default_job_name(
    choices: Mapping[str, Any],
    overrides: Sequence[str] = (),
    swept: Collection[str] = (),
    global_batch_size: Any = None,
) -> str:
    """The experiments joined by `+`, else the dataset; then the network and the model type if not named yet.

    `choices` are Hydra's (group → member), `overrides` are from the command line. Overrides that make another run
    follow, sorted by key.

    Args:
        swept: keys that a sweep varies. They are in the name in any case, so that no two runs share a folder.
        global_batch_size: if set, the batch size per device doesn't make another run.
    """
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    # Hydra records a list of experiments only among the overrides.
    parts = _members(choices.get("experiment") or said.get("experiment"))
    has_experiment = bool(parts)
    for group in ("datamodule", "model"):
        if choices.get(group) and (not has_experiment or group in said):
            parts.append(str(choices[group]))
    model_type = choices.get("model_type")
    if model_type and not any(_has_word(part, str(model_type)) for part in parts):
        parts.append(str(model_type))
    name = "+".join(dict.fromkeys(parts)) or "run"
    settings = _settings(overrides, set(swept), has_global_batch=global_batch_size is not None)
    return _as_folder_name(",".join([name, *settings]))


def _settings(overrides: Sequence[str], swept: Collection[str], has_global_batch: bool) -> list[str]:
    """The overrides that make another run or are swept, as `key=value`; the last one of each key."""
    said: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.lstrip("+")
        makes_another = _makes_another(key) and not (has_global_batch and key == _PER_DEVICE)
        if not makes_another and (key not in swept or key in _NAMED_ANYWAY):
            continue
        short = key.replace(_DATASETS, "")
        said[key] = f"{short}={_shown(value)}" if equals else short
    return sorted(said.values())


def _makes_another(key: str) -> bool:
    if key == f"~{_TRAIN}" or key.endswith(_FETCHING):
        return False
    key = key.lstrip("~")
    group = key.partition("@")[0]
    same = (*_SAME_RUN, *(section.rstrip(".") for section in OPTIONAL_SECTIONS), *SHORT_FORMS)
    return group not in _NAMED_ANYWAY and not any(key == one or key.startswith((f"{one}.", f"{one}@")) for one in same)


def _shown(value: str) -> str:
    """A short form of a value: `1e-3` becomes 0.001, quotation marks and brackets are removed."""
    text = value.strip()
    with suppress(ValueError):
        if any(c in text for c in ".eE"):
            return repr(float(text))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    plain = re.sub(r"[\[\]'\" ]+", "", text) if text.startswith("[") else text
    # Different texts may look the same in a folder name.
    return plain if _AS_NAME.search(plain) is None else f"{plain}-{_digest(text, 6)}"


def name_from_hydra(hydra: Any, global_batch_size: Any = None, swept: Collection[str] = ()) -> str:
    """The default name for a composed `hydra` node; `swept` and the sweeper's own parameters are in it."""
    choices = {str(group): member for group, member in hydra.runtime.choices.items()}
    of_sweeper = (hydra.get("sweeper") or {}).get("params") or {}
    keys = {str(key).lstrip("+") for key in (*swept, *of_sweeper)}
    return default_job_name(choices, [str(text) for text in hydra.overrides.task], keys, global_batch_size)


def checked_job_name(name: Any) -> str:
    """`name` as text, if it is a valid folder below the folder of runs: the one rule for names of runs.

    Raises:
        ConfigError: it is empty or too long, leads to another folder, or has characters of markup, shells or terminals.
    """
    text = "" if name is None else str(name)
    parts = text.split("/")
    if not text.strip() or text != text.strip():
        reason = "is empty (an unset shell variable?)" if not text.strip() else "begins or ends with a blank"
    elif text.startswith(("/", "~")) or ".." in parts or "." in parts or "" in parts or "\0" in text:
        reason = "is not a folder below the folder of runs (paths.run_dir=… allows any folder)"
    elif found := _UNUSABLE.search(text):
        reason = f"contains {found.group()!r}; names are letters, digits, blanks and . _ - + = , ~ @ : % ( ) [ ] {{ }}"
    elif any(part.startswith("-") or part.endswith((".", " ")) or _RESERVED.fullmatch(part) for part in parts):
        reason = "has a part that begins with '-', ends with '.' or a blank, or is reserved (con, nul, …)"
    elif max(len(part.encode("utf-8", "replace")) for part in parts) > _MOST_BYTES:
        reason = f"is longer than {_MOST_BYTES} bytes, the limit for a folder's name"
    else:
        return text
    raise ConfigError(
        as_line(f"job_name={text} {reason}. Without job_name=, a run gets a default name."), key="job_name"
    )


def _has_word(part: str, word: str) -> bool:
    return re.search(rf"(^|[_+]){re.escape(word)}($|[_+])", part) is not None


def _members(choice: Any) -> list[str]:
    """The members of a group's choice: a name, or a list such as `[a,b]`."""
    if choice is None or choice == "null":
        return []
    return [member.strip().strip("'\"") for member in str(choice).strip("[]").split(",") if member.strip()]


def _as_folder_name(name: str) -> str:
    name = _AS_NAME.sub("-", name)
    return name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 9]}-{_digest(name, 8)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
