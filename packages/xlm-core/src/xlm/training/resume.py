"""Where a run continues: the newest readable checkpoint and the position in the data; two runs are never mixed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.errors import CheckpointCorruptError, CheckpointError
from xlm.training.sharded_checkpoints import is_sharded, read_shards
from xlm.utils.choices import GROUPS, chosen_first
from xlm.utils.instantiate import first_sentence
from xlm.utils.rank_zero import RankedLogger
from xlm.utils.secrets import without_secrets
from xlm.utils.tensor_archive import check_archive, unusable_part

# The key of averaged weights in a checkpoint.
AVERAGED = "xlm_ema"
log = RankedLogger(__name__, rank_zero_only=True)

# Settings that identify a run; lengths, logging, validation and paths may change when it is resumed.
IDENTITY = (
    "model",
    "loss",
    "optimizer",
    "seed",
    "global_batch_size",
    "ema_decay",
    "block_size",
    "input_block_size",
    "collators",
    "global_components",
    "data_files.train",
    "datamodule.dataset_managers.train",
    "init_from",
    "init_tokenizer",
)
_MOST_NAMES = 8
# Lines about differences: in all, and of those that follow from other choices.
MOST_LINES, MOST_FOLLOWING = 12, 3
# How batches are loaded, which does not change them.
IGNORED = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory")


def load_checkpoint(path: str | Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint after verifying its checksums.

    Raises:
        CheckpointError: if the file does not exist.
        CheckpointCorruptError: if it is truncated, damaged, not a checkpoint, or contains Python objects: reading these
            could run any code.
    """
    path = Path(path)
    if is_sharded(path):
        return _checked(read_shards(path), path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        check_archive(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointCorruptError(path, _pickled_reason(path, error)) from error
    except Exception as error:  # a file made to do harm can raise anything
        raise CheckpointCorruptError(path, first_sentence(error)) from error
    return _checked(checkpoint, path)


def _checked(checkpoint: Any, path: Path) -> dict[str, Any]:
    """The content of a checkpoint; CheckpointCorruptError if jobs cannot use it."""
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointCorruptError(path, f"it has no 'state_dict'{_what_it_is(checkpoint)}")
    if reason := unusable_part(checkpoint, AVERAGED):
        raise CheckpointCorruptError(path, f"it {reason}")
    return checkpoint


def _pickled_reason(path: Path, error: pickle.UnpicklingError) -> str:
    """The classes that a file needs besides tensors, and how to keep only its weights."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # noqa: BLE001 - damaged too
        names = []
    if not names:
        return str(error).splitlines()[0]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    new = path.with_name(f"{path.stem}_weights.ckpt")
    code = (
        f"import torch; c = torch.load({str(path)!r}, 'cpu', weights_only=False); "
        "c = c if isinstance(c, dict) else {'state_dict': c.state_dict()}; "
        f"torch.save({{k: c[k] for k in ('state_dict', 'xlm_config') if k in c}}, {str(new)!r})"
    )
    return (
        f"besides tensors it contains Python objects ({', '.join(names[:_MOST_NAMES])}{more}), which are not loaded, "
        "because reading them can run any code.\n"
        f'If you trust its author, save only its weights in a new file:\n  python -c "{_in_double_quotes(code)}"'
    )


def _in_double_quotes(text: str) -> str:
    """A text as a shell reads it between double quotes: the path in it may contain `$(…)`."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _what_it_is(content: Any) -> str:
    if not isinstance(content, dict):
        return f" but a {type(content).__name__}"
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return ", but only weights; convert them to .safetensors (safetensors.torch.save_file)"
    return f"; it contains: {', '.join(map(str, list(content)[:_MOST_NAMES]))}" if content else ""


def find_resumable(directory: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The readable checkpoint with the most steps in a directory, and its content; damaged ones are logged.

    Raises:
        CheckpointError: if there are checkpoints but none can be read: starting over would lose them.
    """
    files = list(Path(directory).glob("*.ckpt"))
    damaged: list[str] = []
    for file in sorted(files, key=_newness, reverse=True):
        try:
            return file, read_shards(file, with_tensors=False) if is_sharded(file) else load_checkpoint(file)
        except CheckpointCorruptError as error:
            damaged.append(file.name)
            log.warning(f"{error} Trying an older one.")
    if damaged:
        raise CheckpointError(
            f"None of the checkpoints in {directory} can be read ({', '.join(damaged)}). "
            "Remove them to train from scratch, or give another job_name."
        )
    return None


def _newness(file: Path) -> tuple[int, bool, float]:
    """Sort by steps (unreadable headers first, so that damage is reported), then periodic before best, then time."""
    try:
        if is_sharded(file):
            header = read_shards(file, with_tensors=False)
        else:
            header = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        step = int(header["global_step"])
    except Exception:  # noqa: BLE001 - `load_checkpoint` reports the damage
        step = 2**62
    return step, file.name != "best.ckpt", file.stat().st_mtime


def config_differences(old: Any, cfg: DictConfig) -> list[str]:
    """Lines `key: old → new` for the settings that identify a run and differ between a checkpoint and `cfg`."""
    # Secrets are not stored, so they are not compared.
    before, after = ({key: _stored(key, value) for key, value in _identity(of).items()} for of in (old, cfg))
    return [
        f"{key}: {before.get(key)} → {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def differences_in_words(
    lines: Sequence[str], before: Mapping[str, str], after: Mapping[str, str], typed: Sequence[str]
) -> list[str]:
    """At most MOST_LINES of the lines of `config_differences`, after those for groups with different choices.

    Args:
        before, after: the choices of both runs (see `xlm.utils.choices`).
        typed: keys that a command named; their lines come before those that follow from a choice.
    """
    chosen = [
        f"{group}: {before[group]} → {after[group]}"
        for group in GROUPS
        if group in before and group in after and before[group] != after[group]
    ]
    by_key = {line.partition(": ")[0]: line for line in lines}
    named = [key for key in by_key if any(key == name or key.startswith(f"{name}.") for name in typed)]
    shown = [by_key[key] for key in chosen_first(by_key, typed)]
    room = max(len(named), MOST_FOLLOWING) if chosen else MOST_LINES
    rest = len(shown) - room
    more = [f"and {rest} more{', which follow from these choices' if chosen else ''}"] if rest > 0 else []
    return [*chosen, *shown[:room], *more]


def _stored(key: str, value: Any) -> Any:
    """A value as a checkpoint stores it."""
    if isinstance(value, list):
        return [_stored(key, item) for item in value]
    return without_secrets(f"{key}={value}").removeprefix(f"{key}=") if isinstance(value, str) else value


def data_differences(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for the training sets whose examples have changed since the checkpoint, if both are known.

    Both arguments come from `TextDataModule.contents`, by name of the data set.
    """
    lines = []
    for name in sorted(old.keys() & new.keys()):
        before, now = old[name], new[name]
        if before["digest"] != now["digest"]:
            counts = f"{before['num_examples']:,} examples → {now['num_examples']:,}"
            other = counts if before["num_examples"] != now["num_examples"] else "other content"
            lines.append(f"train.{name} ({now['source']}): {other}")
    return lines


def _identity(cfg: Any) -> dict[str, Any]:
    """Dotted key → value of every leaf below the keys of IDENTITY."""
    found: dict[str, Any] = {}
    for key in IDENTITY:
        path, _, name = key.rpartition(".")
        parent = OmegaConf.select(cfg, path) if path else cfg
        if isinstance(parent, DictConfig) and name in parent:
            _collect(parent, name, key, found)
    if found.get("global_batch_size") is None:
        found["global_batch_size"] = OmegaConf.select(cfg, "per_device_batch_size")
    return {key: value for key, value in found.items() if not key.endswith((*IGNORED, ".batch_size"))}


def _collect(parent: Any, key: Any, dotted: str, found: dict[str, Any]) -> None:
    try:
        value = parent[key]
    except OmegaConfBaseException:
        # A late value, like the tokenizer's size, doesn't exist yet; its expression is used instead.
        found[dotted] = OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[index]
        return
    if isinstance(value, DictConfig):
        for name in value:
            _collect(value, name, f"{dotted}.{name!s}", found)
    else:
        found[dotted] = OmegaConf.to_container(value, resolve=False) if isinstance(value, ListConfig) else value


_NOT_STARTED = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
# Lightning's state for a validation that has started but not finished; none of its batches counts as done.
_DUE = {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def align_progress(
    checkpoint: dict[str, Any], accumulate_grad_batches: int = 1, limit_train_batches: float = 1.0
) -> None:
    """Rewrite the loop counters of `checkpoint`, in place, to the moment right after its last optimizer step.

    Call it when a checkpoint is loaded. Lightning has many kinds of partly updated counters (at the end of a batch,
    of an epoch, of `fit`), and resumes from some of them one batch or one epoch off, or starts a new epoch in the
    middle. A checkpoint has the weights after the last step, so the run continues there: batches that were handed out
    since, and whose gradients are lost, are repeated. An unfinished validation that was due then is repeated. States
    of training without a loader of `xlm.data.loaders` are not changed.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    loaders = loop.get("state_dict", {}).get("combined_loader", [])
    if len(loaders) != 1 or "num_batches" not in loaders[0]:
        return
    loader, batches = loaders[0], loop["epoch_loop.batch_progress"]
    length = _epoch_length(loader["num_batches"], limit_train_batches)
    in_flight = batches["total"]["ready"] - batches["total"]["processed"]
    epoch, batch = divmod(loader["epoch"] * length + loader["batch"] - in_flight, length)
    unstepped = batch % accumulate_grad_batches
    batch -= unstepped
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validation_due = not in_flight and not unstepped and _validation_unfinished(batches, validation)

    # Endless data count all batches, so they need the number that is taken back.
    loader.update(epoch=epoch, batch=batch, rewound=in_flight + unstepped)
    done = batches["total"]["processed"] - unstepped
    batches.update(total=_all(done), current=_all(batch), is_last_batch=False)
    # Mark the epoch as started even if no batch of it is done: only then does Lightning restore loaders.
    begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    loop["epoch_progress"].update(total=dict(begun), current=dict(begun))
    validation.update(total=dict(_DUE if validation_due else _NOT_STARTED), current=dict(_NOT_STARTED))
    steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if steps:  # 0 under manual optimization, which has its own counter
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps


def _epoch_length(num_batches: int, limit: float) -> int:
    """Batches of an epoch under Lightning's `limit_train_batches`: a number, or a fraction as a float."""
    return min(num_batches, limit if isinstance(limit, int) else int(num_batches * limit)) or 1


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(_NOT_STARTED, count)


def _validation_unfinished(batches: dict[str, Any], validation: dict[str, Any]) -> bool:
    """Whether the state was saved at the end of a batch before a due validation, or during validation."""
    before = batches["total"]["completed"] < batches["total"]["processed"]
    # Not the total, which includes validations that were announced to Lightning as due (`_DUE`).
    within = validation["current"]["completed"] < validation["current"]["ready"]
    return before or within
