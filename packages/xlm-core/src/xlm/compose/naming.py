"""A run's default name, from the choices that made its configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from omegaconf import OmegaConf

from xlm.compose.overrides import OPTIONAL_SECTIONS, SHORT_FORMS
from xlm.compose.own_data import AUTOMATIC, name_of_data
from xlm.errors import ConfigError, as_line

# In bytes. Names longer than the first have short keys; longer than the second, they leave out settings.
_READABLE, MAX_LENGTH = 100, 150
_MOST_BYTES = 255
# Characters of markup, shells and terminals, and those that cannot be seen; letters of all scripts are allowed.
_UNUSABLE = re.compile(r"[^\w .+=,~@:%()\[\]{}/\-]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_AS_NAME = re.compile(r"[^\w.+=,~\-]+")
# These choices are in the name anyway, or only locate the run's folder.
_NAMED_ANYWAY = ("experiment", "datamodule", "model", "model_type", "job_type", "debug")
_CHOSEN = _NAMED_ANYWAY[:4]
# Jobs of which each start makes a run; `name` prints what training would use.
TRAINS = ("train", "name")
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
# What the short form of own data stands for.
_OF_OWN_DATA = ("data.", "data_files.train", "columns.", "model=", "datamodule=")
# The training data, which evaluation may remove as a whole (`~…`).
_DATASETS, _TRAIN = "datamodule.dataset_managers.", "datamodule.dataset_managers.train"
_SPLITS = ("train", "val", "test", "predict")
_PER_DEVICE = "per_device_batch_size"


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
    is_own = AUTOMATIC in said
    if is_own:
        parts = [name_of_data(said.get("data_files.train", "")), *parts]
    for group in ("datamodule", "model"):
        if is_own and group == "datamodule":
            continue
        if choices.get(group) and (not has_experiment or group in said):
            parts.append(str(choices[group]))
    model_type = choices.get("model_type")
    if model_type and not any(_has_word(part, str(model_type)) for part in parts):
        parts.append(str(model_type))
    name = "+".join(dict.fromkeys(parts)) or "run"
    if is_own:  # the name of the file is in the name already
        overrides = [text for text in overrides if not text.lstrip("+~").startswith(_OF_OWN_DATA)]
        swept = set(swept) - {"data_files.train"}
    return _with_settings(name, _settings(overrides, set(swept), has_global_batch=global_batch_size is not None))


def sweep_job_name(
    choices: Mapping[str, Any], overrides: Sequence[str], swept: Collection[str], trains: bool = True
) -> str:
    """The name of one run of a sweep among the others: what the sweep varies, `star_easy_mlm+xtiny_mlm,seed=1`.

    Args:
        trains: whether the sweep trains; the runs of other jobs are named by what makes another run.
    """
    keys = named_by(swept, trains)
    said = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    members = [name for group in _CHOSEN if group in keys for name in _members(choices.get(group) or said.get(group))]
    varied = [text for text in overrides if text.partition("=")[0].lstrip("+") in keys]
    return _with_settings("+".join(dict.fromkeys(members)), _settings(varied, keys, has_global_batch=False))


def named_by(swept: Collection[str], trains: bool) -> set[str]:
    """The keys of a sweep that tell its runs apart: all of them, or for other jobs those that make another run."""
    return {key for key in swept if trains or key in _CHOSEN or _makes_another(key)}


def _settings(overrides: Sequence[str], swept: Collection[str], has_global_batch: bool) -> dict[str, str]:
    """The overrides that make another run or are swept, as key → value ("" if it has none); the last of each key."""
    said: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.lstrip("+")
        makes_another = _makes_another(key) and not (has_global_batch and key == _PER_DEVICE)
        if not makes_another and (key not in swept or key in _NAMED_ANYWAY):
            continue
        said[key.replace(_DATASETS, "")] = f"={_shown(value)}" if equals else ""
    return dict(sorted(said.items()))


def _with_settings(name: str, settings: Mapping[str, str]) -> str:
    """`name,key=value,…`. In a long name, keys are shortened to their last part; a longer one leaves out settings.

    The shortest settings stay, and a hash of the full name replaces the others.
    """
    full = _joined(name, [f"{key}{value}" for key, value in settings.items()])
    if _length(full) <= _READABLE:
        return full
    ends = [_end(key) for key in settings]
    texts = sorted(
        f"{end if ends.count(end) == 1 and not key.startswith('~') else key}{value}"
        for end, (key, value) in zip(ends, settings.items(), strict=True)
    )
    if _length(_joined(name, texts)) <= MAX_LENGTH:
        return _joined(name, texts)
    digest = _digest(full, 8)
    kept: list[str] = []
    for text in sorted(texts, key=_length):
        if _length(_joined(name, [*kept, text, f"{len(texts)}-more-{digest}"])) <= MAX_LENGTH:
            kept.append(text)
    left_out = len(texts) - len(kept)
    cut = _joined(
        name, [*(text for text in texts if text in kept), *([f"{left_out}-more-{digest}"] if left_out else [])]
    )
    if _length(cut) <= MAX_LENGTH:
        return cut
    # The names of the experiments alone are too long.
    start = name.encode()[: MAX_LENGTH - 9].decode(errors="ignore")
    return f"{_AS_NAME.sub('-', start)}-{digest}"


def _end(key: str) -> str:
    """The last part of a key, which says what it is; with the part before, if it is only a split."""
    above, _, last = key.rpartition(".")
    return f"{above.rpartition('.')[2]}.{last}" if above and last in _SPLITS else last


def _joined(name: str, settings: Sequence[str]) -> str:
    return _AS_NAME.sub("-", ",".join([*([name] if name else []), *settings]))


def _length(text: str) -> int:
    return len(text.encode())


def _makes_another(key: str) -> bool:
    if key == f"~{_TRAIN}" or key.endswith(_FETCHING):
        return False
    key = key.lstrip("~")
    group = key.partition("@")[0]
    same = (*_SAME_RUN, *(section.rstrip(".") for section in OPTIONAL_SECTIONS), *SHORT_FORMS)
    return group not in _NAMED_ANYWAY and not any(key == one or key.startswith((f"{one}.", f"{one}@")) for one in same)


def _shown(value: str) -> str:
    """A short form of a value: `1e-3` becomes 0.001; of paths, the last part; quotation marks and brackets are removed.

    Different texts may look the same then, so a hash follows where more than those was removed.
    """
    text = value.strip()
    with suppress(ValueError):
        if any(c in text for c in ".eE"):
            return repr(float(text))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    plain = re.sub(r"[\[\]'\" ]+", "", text) if text.startswith("[") else text
    if text.startswith("{"):
        plain = re.sub(r"[{}'\" ]+", "", text).replace(":", "=")
    if _AS_NAME.search(plain) is None:
        return plain
    short = ",".join(part.rstrip("/").rpartition("/")[2] for part in plain.split(","))
    return f"{_AS_NAME.sub('-', short).strip('-')}-{_digest(plain, 4)}".lstrip("-")


def name_from_hydra(hydra: Any, global_batch_size: Any = None, swept: Collection[str] = ()) -> str:
    """The default name for a composed `hydra` node; `swept` and the sweeper's own parameters are in it."""
    return default_job_name(_choices(hydra), _overrides(hydra), _varied(hydra, swept), global_batch_size)


def sweep_name_from_hydra(hydra: Any, swept: Collection[str], trains: bool) -> str:
    """`sweep_job_name` for a composed `hydra` node."""
    return sweep_job_name(_choices(hydra), _overrides(hydra), _varied(hydra, swept), trains)


def _choices(hydra: Any) -> dict[str, Any]:
    return {str(group): member for group, member in hydra.runtime.choices.items()}


def _overrides(hydra: Any) -> list[str]:
    """The overrides without that of the name, which may refer to the others."""
    task = hydra.overrides.task
    raw = [str(text) for text in OmegaConf.to_container(task, resolve=False)]  # type: ignore[union-attr]
    return [str(task[i]) for i, text in enumerate(raw) if not text.startswith("job_name=")]


def _varied(hydra: Any, swept: Collection[str]) -> set[str]:
    of_sweeper = (hydra.get("sweeper") or {}).get("params") or {}
    return {str(key).lstrip("+") for key in (*swept, *of_sweeper)}


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


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
