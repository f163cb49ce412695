"""One named data set of one split: its source, preparation, checks and loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xlm.data.cache import CacheEntry, DataCache
from xlm.data.collate import Limit
from xlm.data.endless import EndlessLoader, endless_loader
from xlm.data.fitting import POLICIES, TEXT, fitted, limits_of
from xlm.data.functional import GROUP_SIZE, NUM_BYTES, process_groups
from xlm.data.hashing import hash_of
from xlm.data.loaders import EvalLoader, StatefulTrainLoader, check_options, make_loader
from xlm.data.locator import Named, locate, part_of_files
from xlm.data.mapping import RowError, map_chunks
from xlm.data.mixtures import joined_content, part_managers
from xlm.data.prepare_progress import ShareRead, shown
from xlm.data.rows import ArrowRows, Chunk, ColumnError, ListRows, Rows
from xlm.data.selection import Reading, removed_from
from xlm.data.shifting import shifted
from xlm.data.sources import (
    AFTER_NUM_EXAMPLES,
    FileSource,
    FilesSource,
    FirstRows,
    FolderSource,
    GeneratorSource,
    HeldOutPart,
    SavedSource,
    Source,
)
from xlm.data.steps import Step, plain, row_function
from xlm.data.stream_examples import HELD_OUT_OF_STREAM, SHUFFLE_BUFFER, Preparation, StreamOfSource
from xlm.data.tokenizers import fingerprint
from xlm.errors import DataError
from xlm.utils.annotations import Count
from xlm.utils.imports import get_function
from xlm.utils.instantiate import check_arguments, promises_types
from xlm.utils.rank_zero import RankedLogger


class EmptyExamples:
    """`num_examples` times `{"input_ids": []}`."""

    def __init__(self, tokenizer: Any, num_examples: int) -> None:
        self.num_examples = num_examples

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"input_ids": []} for _ in range(self.num_examples))


log = RankedLogger(__name__, rank_zero_only=True)

ROLES = ("loss", "prediction")
STAGES = ("fit", "validate", "test", "predict")


def _named(chunks: Iterator[list[dict[str, Any]]], source: Source) -> Iterator[list[dict[str, Any]]]:
    """The chunks; an error in a row names its place in the source."""
    try:
        yield from chunks
    except RowError as error:
        raise DataError(f"{source.where(error.row)}: {error}") from error


class DatasetManager:
    """A data set under one name (`lm`, `prediction`, …) of one split.

    Raw examples come from `full_name` (with `name` and `split`) or from `dataset_constructor_str` (with
    `dataset_kwargs`); `data_file`, a source with the same columns, replaces either of them. They go through
    `preprocess_function` once and are cached; `on_the_fly_processor` runs whenever an example is fetched;
    `on_the_fly_group_processor` joins or splits examples (packing), so its result is cached too. `num_examples`
    keeps the first examples. `data_files` instead names the files of a user's own data by part (train, val, test);
    a `part` without a file is held out from `train`, a share of the rows given by `held_out`. `reading` has the
    fields of `xlm.data.selection.Reading`: how files are read, and which rows are used. `too_long` decides
    what happens to examples longer than their block: error, truncate, drop or split; with None, an error where the
    collator would raise one; otherwise the collator truncates. With `shift_blocks`, the blocks into which documents of
    training are split or packed begin at other tokens in every epoch (`xlm.data.shifting`). `role` is "loss" or
    "prediction"; None means that the name decides. `stages` limits the stages that set it up.
    """

    #: Whether `debug=overfit` replaces these examples with the training batch.
    follows_overfit_batch = True
    #: Whether `streaming` and mixtures apply; data for evaluation are always prepared.
    can_stream = True

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
        full_name: Named | None = None,
        *,
        data_file: Named | None = None,
        data_files: Mapping[str, Named | None] | None = None,
        part: str = "train",
        held_out: Mapping[str, float] | None = None,
        reading: Mapping[str, Any] | None = None,
        name: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        dataset_constructor_str: str | None = None,
        dataset_kwargs: Mapping[str, Any] | None = None,
        num_examples: int | None = None,
        preprocess_function: str | Callable[..., Any] | None = None,
        preprocess_function_kwargs: Mapping[str, Any] | None = None,
        on_the_fly_processor: str | Callable[..., Any] | None = None,
        on_the_fly_processor_kwargs: Mapping[str, Any] | None = None,
        on_the_fly_group_processor: str | Callable[..., Any] | None = None,
        on_the_fly_group_processor_kwargs: Mapping[str, Any] | None = None,
        columns_to_keep: Sequence[str] | None = None,
        dataloader_kwargs: Mapping[str, Any] | None = None,
        too_long: str | None = None,
        shift_blocks: bool = False,
        streaming: bool = False,
        shuffle_buffer: Count = SHUFFLE_BUFFER,
        mixture: Mapping[str, Any] | None = None,
        role: str | None = None,
        stages: Sequence[str] | None = None,
    ) -> None:
        fields = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if num_examples is not None and num_examples < 0:
            raise DataError(f"num_examples of a data set is {num_examples}, and must be positive (null: all).")
        self.collator = collator
        named = data_file or full_name
        self.full_name: Named | None
        if named is None or isinstance(named, str):
            self.full_name = named
        else:
            self.full_name = plain(named) if isinstance(named, Mapping | DictConfig) else [str(name) for name in named]
        #: (files of the parts, this part, shares held out) of a user's own data.
        self.own = None if data_files is None else (plain(data_files), part, plain(held_out or {}))
        #: Whether another source replaces that of a task, of which the task's num_examples knows nothing.
        self.is_replaced = bool(data_file)
        self.reading = Reading.of(plain(reading or {}))
        place = {} if data_file else {"name": name, "split": split, "revision": revision}
        self.source_options: dict[str, Any] = {**place, "num_examples": num_examples}
        self.dataset_constructor_str = dataset_constructor_str
        self.dataset_kwargs = plain(dataset_kwargs or {})
        self.preprocess = Step.of(preprocess_function, preprocess_function_kwargs)
        self.on_the_fly = Step.of(on_the_fly_processor, on_the_fly_processor_kwargs)
        self.group = Step.of(on_the_fly_group_processor, on_the_fly_group_processor_kwargs)
        self.columns_to_keep = None if columns_to_keep is None else list(columns_to_keep)
        self.dataloader_kwargs = plain(dataloader_kwargs or {})
        self.too_long = None if too_long is None else _one_of("too_long", too_long, POLICIES)
        self.shift_blocks = shift_blocks
        #: `split.name`, set by the data module.
        self.label: str | None = None
        self.role = _one_of("role", role, ROLES) if role is not None else None
        self.stages = tuple(_one_of("stage", stage, STAGES) for stage in (STAGES if stages is None else stages))
        #: The data sets of a mixture, by name; empty for other sets.
        self.parts: dict[str, DatasetManager] = part_managers(type(self), fields) if self.can_stream else {}
        self.mixture = plain(mixture or {})
        self.streaming, self.shuffle_buffer = streaming, shuffle_buffer
        self.stream: StreamOfSource | None = None
        self.rows: Rows | None = None
        self._prepared: tuple[tuple[Path, Any], CacheEntry, Rows] | None = None
        #: What is open of the cache, by folder; the sets of a run share it, so that none is read and checked twice.
        self.opened: dict[Path, CacheEntry] = {}
        #: The number of examples that don't fit into their block, which `too_long` decides about.
        self.num_too_long = 0
        #: Source, number of examples and a hash of the prepared data; None before preparation, and for generated data.
        self.content: dict[str, Any] | None = None

    @property
    def is_endless(self) -> bool:
        """Whether training batches never end: a stream or a mixture."""
        return self.can_stream and (self.streaming or bool(self.parts))

    def cached_sets(self, name: str) -> dict[str, DatasetManager]:
        """The sets in the cache, by name: this one, or those of a mixture's parts; none for a stream."""
        sets = {f"{name}.{part}": manager for part, manager in self.parts.items()} or {name: self}
        return {label: manager for label, manager in sets.items() if not (manager.streaming and manager.can_stream)}

    def check(self, key: str) -> None:
        """ConfigError for an argument below `key` that the loader or one of the named functions does not accept."""
        if self.dataloader_kwargs:
            check_options(self.dataloader_kwargs, f"{key}.dataloader_kwargs")
        steps = {
            "dataset": Step.of(self.dataset_constructor_str, self.dataset_kwargs),
            "preprocess_function": self.preprocess,
            "on_the_fly_processor": self.on_the_fly,
            "on_the_fly_group_processor": self.group,
        }
        for name, step in steps.items():
            if step is not None and step.kwargs and promises_types(function := get_function(step.path)):
                check_arguments(function, step.kwargs, f"{key}.{name}_kwargs", strict=False)

    def source(self) -> Source:
        """The source of the raw examples; `DataError` when the config does not describe one."""
        if self.own is not None:
            source, most = part_of_files(*self.own, self.reading), self.source_options["num_examples"]
            if self.streaming and not self.can_stream and most is None and isinstance(source, HeldOutPart):
                most = HELD_OUT_OF_STREAM
            return source if most is None else FirstRows(source, most)
        return locate(
            self.full_name,
            dataset_constructor_str=self.dataset_constructor_str,
            dataset_kwargs=self.dataset_kwargs,
            reading=self.reading,
            **self.source_options,
        )

    def prepare(
        self,
        tokenizer: Any,
        cache_dir: Path | str,
        num_workers: int | None = None,
        rewritten: set[Path] | None = None,
    ) -> CacheEntry | None:
        """Build the cached examples unless they exist; None for a data set that needs no cache.

        Args:
            rewritten: folders of the cache that were built again; others are built even if they exist, and are added.
                None: only what is missing is built.

        Raises:
            DataError: a row cannot be used, or some rows don't fit into their block and must.
        """
        if self.is_endless:
            self._open(tokenizer, cache_dir, num_workers, rewritten)
            return None
        asked = (Path(cache_dir), tokenizer)
        # A training run calls this several times: before it resumes, from Lightning, and to open the rows.
        if self._prepared is not None and self._prepared[0] == asked:
            return self._prepared[1]
        source = self.source()
        inner: Any = source
        while hasattr(inner, "source"):
            inner = inner.source
        place = str(getattr(inner, "path", None) or getattr(inner, "folder", None) or inner.name)
        try:
            entry = DataCache(cache_dir, self.opened).get_or_build(
                source.name,
                self._cache_key(source, tokenizer),
                lambda start: self._shown(source, tokenizer, num_workers, start),
                removed=lambda: removed_from(source),
                rewritten=rewritten,
            )
        except ColumnError as error:
            raise DataError(f"{place}: {error}") from error
        self._say_removed(entry, place)
        if len(entry.rows) == 0:
            raise DataError(self._no_examples(place, next(iter(source.rows(tokenizer)), None) is None))
        fit = self._fitted(source, entry.rows)
        if not isinstance(inner, GeneratorSource):
            self.content = {"source": place, "num_examples": len(entry.rows), "digest": entry.content}
        self._prepared = (asked, entry, fit)
        return entry

    def _say_removed(self, entry: CacheEntry, place: str) -> None:
        name, removed = self.label or "The data set", dict(entry.removed)
        if removed.pop(AFTER_NUM_EXAMPLES, 0) and self.is_replaced:
            log.warning(
                f"{name} uses the first {len(entry.rows):,} rows of {place}, which has more: its num_examples is "
                f"{self.source_options['num_examples']:,}. For all rows: "
                f"datamodule.dataset_managers.{self.label or 'SPLIT.NAME'}.num_examples=null"
            )
        if (self.label or "train").partition(".")[0] != "train":
            removed.pop("empty", None)  # they are counted in the whole file, which is that of train
        if removed:
            counts = ", ".join(f"{reason}: {count:,}" for reason, count in removed.items())
            log.warning(f"{name}: rows of {place} that are left out: {counts}.")

    def _fitted(self, source: Source, rows: ArrowRows) -> Rows:
        """The rows after `too_long` is applied; messages about them are logged the first time only."""
        limits = self._limits(rows.column_names)
        where = source.where if self.group is None else (lambda number: f"block {number + 1} of {source.name}")
        name = self.label or source.name
        long = [rows.longer_than(column, limit.tokens)[0] for column, limit in limits.items()]
        self.num_too_long = len(set().union(*(each.tolist() for each in long)))
        fit, said = fitted(rows, limits, self.too_long, name, where)
        for sentence in said:
            log.warning(sentence)
        return fit

    def setup(self, tokenizer: Any, cache_dir: Path | str, num_workers: int | None = None) -> None:
        """Open the examples (prepare them first if needed); `DataError` when there are none."""
        if self.rows is not None:
            return
        self.prepare(tokenizer, cache_dir, num_workers)
        for part in self.parts.values():
            part.setup(tokenizer, cache_dir, num_workers)
        if self._prepared is not None:
            self.rows = self._prepared[2]

    def _open(
        self, tokenizer: Any, cache_dir: Path | str, num_workers: int | None, rewritten: set[Path] | None
    ) -> None:
        """Check a stream by its first row, or prepare the parts of a mixture."""
        if self.parts:
            for name, part in self.parts.items():
                part.label = f"{self.label}.{name}" if self.label else name
                part.opened = self.opened
                part.prepare(tokenizer, cache_dir, num_workers, rewritten)
            self.content = joined_content({name: part.content for name, part in self.parts.items()})
        elif self.stream is None:
            if self.shift_blocks:
                raise DataError(
                    f"{self.label}: shift_blocks=true is for prepared data: a stream's blocks are cut while it is read."
                )
            source = self.source()
            preparation = self._preparation(source, tokenizer)
            self.stream = StreamOfSource(source, tokenizer, preparation, self._limits)
            if not isinstance(source, GeneratorSource):
                digest = hash_of(source.identity())
                self.content = {"source": source.name, "num_examples": 0, "digest": digest}

    def _preparation(self, source: Source, tokenizer: Any) -> Preparation:
        """What `prepare` does with all rows, for a stream's rows."""
        group = on_the_fly = None
        if self.group is not None:
            step = self._group_step()
            group = partial(get_function(step.path), tokenizer=tokenizer, **step.kwargs)
            on_the_fly = None if self.on_the_fly is None else self.on_the_fly.bind(tokenizer)
        return Preparation(
            row_function(self.preprocess, tokenizer),
            None if self.columns_to_keep is None else partial(_keep, self.columns_to_keep),
            on_the_fly,
            group,
            policy=self.too_long,
            name=self.label or source.name,
        )

    def _limits(self, columns: Sequence[str]) -> dict[str, Limit]:
        """The most tokens of each column that the collator takes."""
        limits = limits_of(self.collator, columns, self.on_the_fly is not None)
        if self.on_the_fly is not None and self.on_the_fly.kwargs.get("block_size") is not None:
            limits.pop(TEXT, None)  # which cuts it
        return limits

    def _no_examples(self, place: str, has_no_rows: bool) -> str:
        name = f"{self.label}: " if self.label else "The data set "
        if self.source_options["num_examples"] == 0:
            return f"{name}{place} has no examples, as its num_examples is 0 (null: all)."
        if has_no_rows:
            return f"{name}{place} has no examples: it has no rows."
        return f"{name}{place} has no examples: preprocessing its rows yields none."

    def _cache_key(self, source: Source, tokenizer: Any) -> dict[str, Any]:
        steps = {"preprocess": self.preprocess, "group": self.group}
        if self.group is not None:
            steps["on_the_fly"] = self.on_the_fly
            steps["group"] = self._group_step()
        return {
            "source": source.identity(),
            "columns": self.columns_to_keep,
            "tokenizer": fingerprint(tokenizer),
            **{name: step.identity() for name, step in steps.items() if step is not None},
        }

    def _build(self, source: Source, tokenizer: Any, num_workers: int | None, start: int = 0) -> Iterator[Chunk]:
        """The examples of the rows of `source` from `start` on, which ends a chunk."""
        rows = islice(source.rows(tokenizer), start, None)
        num_workers = num_workers if self.preprocess else None
        lists = _named(map_chunks(row_function(self.preprocess, tokenizer), rows, num_workers, start), source)
        for chunk in _numbered(lists, start) if self.group is None else self._groups(lists, tokenizer, start):
            kept = self.columns_to_keep
            yield chunk if kept is None else Chunk([_keep(kept, row) for row in chunk.rows], chunk.num_read)

    def _shown(self, source: Source, tokenizer: Any, num_workers: int | None, start: int) -> Iterator[Chunk]:
        chunks = self._build(source, tokenizer, num_workers, start)
        return shown(chunks, self.label or source.name, ShareRead(source), start)

    def _groups(self, lists: Iterator[list[dict[str, Any]]], tokenizer: Any, start: int) -> Iterator[Chunk]:
        """The examples that the group processor makes of each group of rows."""
        rows: Iterator[dict[str, Any]] = chain.from_iterable(lists)
        if self.on_the_fly is not None:
            rows = map(self.on_the_fly.bind(tokenizer), rows)
        step = self._group_step()
        function = partial(get_function(step.path), tokenizer=tokenizer, **step.kwargs)
        while group := list(islice(rows, GROUP_SIZE)):
            start += len(group)
            yield Chunk(list(process_groups(group, function)), start)

    def _group_step(self) -> Step:
        """The group processor with a block size: its own, otherwise the collator's."""
        assert self.group is not None
        if "block_size" in self.group.kwargs:
            return self.group
        block_size = getattr(self.collator, "block_size", None)
        if block_size is None:
            raise DataError(f"{self.group.path} needs on_the_fly_group_processor_kwargs.block_size.")
        return Step(self.group.path, {**self.group.kwargs, "block_size": block_size})

    def get_dataloader(
        self,
        split: str,
        tokenizer: Any,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        rows: Rows | None = None,
        repeats: int = 1,
        accumulate: int = 1,
        measure_every: int = 0,
    ) -> StatefulTrainLoader | EndlessLoader | EvalLoader:
        """Batches for `split`: shuffled and resumable for train, in order and complete otherwise.

        `rows` replaces the data set's own rows; `repeats` lengthens an epoch of train; `accumulate` is the number of
        batches of one process in an optimizer step. Streams and mixtures are endless; a mixture's batches have the
        rows of each part apart in one of `measure_every` steps.
        """
        if rows is None and (self.parts or self.stream is not None):
            steps = {"accumulate": accumulate, "measure_every": measure_every}
            return self._endless_loader(split, tokenizer, seed=seed, rank=rank, world_size=world_size, **steps)
        rows = self._rows_of(split, seed) if rows is None else rows
        if rows is None or self.collator is None:
            name = self.full_name or self.dataset_constructor_str
            raise DataError(f"{name} has no rows or no collator. Call setup first.")
        if "batch_size" not in self.dataloader_kwargs:
            raise DataError("A dataset needs dataloader_kwargs.batch_size.")
        return make_loader(
            rows,
            self.collator,
            train=split == "train",
            processor=self.processor(tokenizer),
            seed=seed,
            rank=rank,
            world_size=world_size,
            repeats=repeats,
            **self.dataloader_kwargs,
        )

    def _rows_of(self, split: str, seed: int) -> Rows | None:
        """The rows of a split; those of training have other blocks in every epoch, if that is asked for."""
        if not self.shift_blocks or split != "train" or self.rows is None:
            return self.rows
        name = self.label or self.full_name or "The data set"
        if self.group is None and self.too_long != "split":
            raise DataError(
                f"{name}: shift_blocks=true has no effect, because no document is split or packed. "
                "Set too_long=split, or remove it."
            )
        return shifted(self.rows, seed, self.group is not None, str(name))

    def _endless_loader(self, split: str, tokenizer: Any, **options: int) -> EndlessLoader:
        if self.collator is None:
            raise DataError(f"{self.label or self.full_name} has no collator.")
        if split != "train":
            raise DataError(f"{self.label or self.full_name}: streams and mixtures are for training only.")
        parts = self.parts or {"": self}
        seed = options["seed"]
        opened = {name: part.stream or part._rows_of(split, seed + n) for n, (name, part) in enumerate(parts.items())}
        return endless_loader(
            {name: source for name, source in opened.items() if source is not None},
            {name: part.shuffle_buffer for name, part in parts.items()},
            {name: part.processor(tokenizer) for name, part in parts.items()},
            self.collator,
            self.mixture,
            self.dataloader_kwargs,
            **options,
        )

    def first_rows(self, most: int) -> Rows:
        """The rows; of a stream, the first ones, and of a mixture, those of its parts one after the other."""
        if self.parts:
            each = [part.first_rows(-(-most // len(self.parts))) for part in self.parts.values()]
            return ListRows(row for rows in each for row in rows.fetch(range(min(most, len(rows)))))
        if self.stream is not None:
            return ListRows(self.stream.first(most))
        assert self.rows is not None
        return self.rows

    def processor(self, tokenizer: Any) -> Callable[..., dict[str, Any]] | None:
        """What runs whenever an example is fetched; with packing, `on_the_fly` runs before it."""
        return self.on_the_fly.bind_keyed(tokenizer) if self.on_the_fly and not self.group else None


class LocalDatasetManager(DatasetManager):
    """A data set that must be a local file or a folder saved by `datasets`; the hub is never used."""

    def source(self) -> Source:
        source = super().source()
        inner: Any = source
        while hasattr(inner, "source"):
            inner = inner.source
        if not isinstance(inner, (FileSource, FilesSource, FolderSource, SavedSource)):
            raise DataError(f"There is no local data file or folder {self.full_name}.")
        return source


class EvalDatasetManager(DatasetManager):
    """A data set for evaluation only: every example once and in order, in any split."""

    can_stream = False

    def get_dataloader(
        self, split: str, tokenizer: Any, **options: Any
    ) -> StatefulTrainLoader | EndlessLoader | EvalLoader:
        return super().get_dataloader("test" if split == "train" else split, tokenizer, **options)


class UnconditionalGenerationDatasetManager(EvalDatasetManager):
    """`num_examples` empty examples, one for each unconditional sample; nothing is read or cached."""

    follows_overfit_batch = False

    def __init__(
        self,
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
        num_examples: int = 1,
        *,
        dataset_constructor_str: str = "xlm.data.manager.EmptyExamples",
        role: str | None = "prediction",
        **options: Any,
    ) -> None:
        super().__init__(
            collator,
            num_examples=num_examples,
            dataset_constructor_str=dataset_constructor_str,
            role=role,
            **options,
        )
        self.reading = Reading()  # its examples are all equal

    def prepare(
        self,
        tokenizer: Any,
        cache_dir: Path | str,
        num_workers: int | None = None,
        rewritten: set[Path] | None = None,
    ) -> CacheEntry | None:
        return None

    def setup(self, tokenizer: Any, cache_dir: Path | str, num_workers: int | None = None) -> None:
        if self.rows is None:
            chunks = self._build(self.source(), tokenizer, num_workers)
            self.rows = ListRows(chain.from_iterable(chunk.rows for chunk in chunks))


def _numbered(lists: Iterator[list[dict[str, Any]]], start: int) -> Iterator[Chunk]:
    for rows in lists:
        start += len(rows)
        yield Chunk(rows, start)


def _keep(columns: list[str], row: dict[str, Any]) -> dict[str, Any]:
    """Those columns of a row; only the number of bytes may be missing, which packed rows don't have."""
    if missing := [name for name in columns if name not in row and name != NUM_BYTES]:
        raise DataError(f"columns_to_keep names {', '.join(missing)}; an example has {', '.join(row)}.")
    return {name: row[name] for name in columns if name in row}


def _one_of(what: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise DataError(f"Unknown {what} '{value}' of a data set. Choose one of: {', '.join(choices)}.")
    return value
