"""What `xlm train` prints about data: a person's own at the start, and whether other data are mixed in."""

from __future__ import annotations

import textwrap
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.data.locator import locate
from xlm.data.manager import DatasetManager, UnconditionalGenerationDatasetManager
from xlm.data.sources import FilesSource, FolderSource
from xlm.datamodule import TextDataModule
from xlm.inference.session import Session
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)

# Names of lines and two blanks stand before a text.
_INDENT, _WIDTH = " " * 9, 71
_COLUMNS = {"prompt_ids": ("input_block_size", "prompts"), "input_ids": ("block_size", "texts")}
_TOO_LONG = {"split": "are split", "drop": "are left out", "truncate": "are cut off"}
# The choices that are shown anyway, or only say how files are read.
_SHOWN_ANYWAY = ("reading.", "data_files.", "datamodule.", "callbacks.")


def own_data_lines(session: Session, expected: str) -> dict[str, str]:
    """Name → line about a person's own data, and about what was chosen for them; empty for other data.

    Args:
        expected: the expected time in words; empty if it was not measured.
    """
    cfg, managers = session.cfg, session.datamodule.dataset_managers["train"]
    manager = managers.get("lm")
    if cfg.get("data") is None or manager is None:
        return {}
    session.datamodule.setup("fit")
    lines = {"data": _source(cfg, session.datamodule), "tokens": _tokens(session, manager)}
    if manager.rows is not None:
        lines["lengths"] = _lengths(cfg, manager)
    hidden = (*_SHOWN_ANYWAY, *(cfg.data.get("overridden") or ()))
    chosen = {key: value for key, value in (cfg.data.get("chosen") or {}).items() if not key.startswith(hidden)}
    if chosen:
        values = " ".join(f"{key}={value}" for key, value in chosen.items())
        folded = textwrap.wrap(f"{values} (give any of them to change it)", _WIDTH, break_on_hyphens=False)
        lines["chosen"] = f"\n{_INDENT}".join(folded)
    if expected:
        lines["time"] = expected
    return lines


def _source(cfg: DictConfig, datamodule: TextDataModule) -> str:
    """Files, rows and parts."""
    named = OmegaConf.to_container(cfg.data_files)["train"]  # type: ignore[call-overload,index]
    counts = {
        split: next(iter(found.values()))["num_examples"]
        for split in ("train", "val", "test")
        if (found := datamodule.contents(split))
    }
    held_out = [part for part in ("val", "test") if part in counts and not cfg.data_files.get(part)]
    source = locate(named)
    files = source.paths if isinstance(source, FilesSource) else None
    if isinstance(source, FolderSource):
        files = tuple(source.files() or ())
    details = [] if files is None else [f"{len(files):,} {'file' if len(files) == 1 else 'files'}"]
    if (size := getattr(source, "num_bytes", lambda: None)()) is not None:
        details.append(_bytes(size))
    name = named if isinstance(named, str) else source.name
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
    how = f" ({' and '.join(held_out)} held out by a hash of each row)" if held_out else ""
    size_of_files = f" ({', '.join(details)})" if details else ""
    return f"{name}{size_of_files}: {parts or 'a stream of'} rows{how}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _tokens(session: Session, manager: DatasetManager) -> str:
    """The tokenizer, and the tokens for training."""
    from xlm.data.trained_tokenizer import OwnTokenizer

    size = getattr(session.tokenizer, "full_vocab_size", len(session.tokenizer))
    asked = session.cfg.get("tokenizer")
    trained = isinstance(session.tokenizer, OwnTokenizer)
    what = f"{asked or 'bpe'} tokenizer, trained on these texts" if trained else f"the tokenizer {asked}"
    line = f"{what}, {size:,} entries"
    if manager.rows is None:
        return line
    found = [manager.rows.lengths(column) for column in _COLUMNS]
    total = sum(int(each.sum()) for each in found if each is not None)
    return f"{line}; {total:,} tokens for training"


def _lengths(cfg: DictConfig, manager: DatasetManager) -> str:
    assert manager.rows is not None
    present = {column: each for column in _COLUMNS if (each := manager.rows.lengths(column)) is not None and len(each)}
    is_pair = "prompt_ids" in present
    parts = []
    for column, found in present.items():
        setting, what = _COLUMNS[column]
        what = "answers" if is_pair and column == "input_ids" else what
        parts.append(
            f"{setting} {cfg.get(setting)} ({what}: {found.mean():.0f} tokens on average, at most {found.max()})"
        )
    total = (manager.content or {}).get("num_examples", len(manager.rows))
    count = manager.num_too_long
    if not count:
        return f"{', '.join(parts)}; all rows fit"
    share = 1 - count / max(total, 1)
    verb = _TOO_LONG.get(str(cfg.get("too_long")), "are cut off")
    return f"{', '.join(parts)}; {share:.1%} of the rows fit, {count:,} are longer and {verb} (too_long)"


def say_other_data(cfg: DictConfig, datamodule: TextDataModule) -> None:
    """Log which data of a run are not from `data_files.train`, if it is given for a task that has data of its own."""
    managers = datamodule.dataset_managers
    if not any(getattr(manager, "is_replaced", False) for manager in managers["train"].values()):
        return
    others = [
        f"{split}.{name}"
        for split in ("val", "test")
        for name, manager in managers[split].items()
        if not isinstance(manager, UnconditionalGenerationDatasetManager)
        and manager.own is None
        and not manager.is_replaced
    ]
    if others:
        named: Any = cfg.data_files.train
        log.warning(
            f"{', '.join(others)}: these data are the task's own, not from {named}. To evaluate on other data, give "
            "data_files.val=FILE and data_files.test=FILE."
        )
