"""`xlm generate`: generates text with a checkpoint, as JSON lines or interactively."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xlm.compose.checks import read_section
from xlm.datamodule import STAGES_OF_SPLITS, UnconditionalGenerationDatasetManager
from xlm.errors import ConfigError, XLMError
from xlm.evaluation.cost import calls_of_rows
from xlm.harness import Harness
from xlm.inference.prompts import Prompt, piped_prompts, read_prompts, standard_input
from xlm.inference.session import Session, display_path, fewer_than_asked, start
from xlm.inference.sources import chosen_weights, load_chosen
from xlm.inference.tracing import tracing
from xlm.inference.writer import Sample, Writer, drawing_options
from xlm.protocols import call_at
from xlm.schemas import Generation
from xlm.training.rng import random_state_of
from xlm.utils.consoles import plain_console, width_of
from xlm.utils.files import keep_earlier, output_file, output_folder, replace_text
from xlm.utils.instantiate import current_components
from xlm.utils.text_files import read_lines

# Words that end a conversation.
_ENDS = ("quit", "exit")
_PROMPT = "[bold cyan]prompt>[/bold cyan] "


def converse(write: Callable[[str, int], Sequence[Sample]], console: Console, title: str) -> int:
    """Read prompts and print the results of `write(prompt, number of the prompt)`; returns the number of prompts.

    quit, exit, an empty line, Ctrl-D or Ctrl-C ends it. After an error the next prompt is read. With input from a pipe,
    each line up to an empty one is a prompt, and only texts are printed.
    """
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        _edit_lines()
        console.print(
            f"{title}. Write ___ for a blank (___[3]: three tokens). quit, Ctrl-D or Ctrl-C ends it.",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    count = 0
    try:
        for prompt in _prompts(console, at_terminal):
            started = time.perf_counter()
            try:
                samples = write(prompt, count)
            except XLMError as error:
                plain_console(stderr=True).print(f"Error: {error}", markup=False, highlight=False, soft_wrap=True)
                continue
            count += 1
            for sample in samples:
                console.print(sample.text, markup=False, highlight=False, soft_wrap=True)
            if at_terminal:
                console.print(_cost(samples, time.perf_counter() - started), style="dim", highlight=False)
    except KeyboardInterrupt:
        pass
    if at_terminal:
        console.print()
    return count


def _prompts(console: Console, at_terminal: bool) -> Iterator[str]:
    for line in _typed(console) if at_terminal else (line.text for line in read_lines(standard_input(), "the input")):
        if not line.strip():
            return
        yield line


def _typed(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input(_PROMPT)
        except EOFError:
            return
        if line.strip().lower() in _ENDS:
            return
        yield line


def _edit_lines() -> None:
    """Turn on arrow keys and history, if Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def _cost(samples: Sequence[Sample], seconds: float) -> str:
    counts = [sample.network_calls for sample in samples if sample.network_calls is not None]
    calls = f"{sum(counts) / len(counts):g} network calls per text, " if counts else ""
    return f"{calls}{seconds:.2f} s"


# Splits to take prompts from if none are given, in this order.
SPLITS = ("predict", "test", "val")
# Keys of a row to show on the screen; a published predictor uses `text` for its output.
SHOWN = ("prompt", "prediction", "text", "truth")
STDOUT = "-"
NUM_EXAMPLES = 8


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Generate for given prompts, for those of a pipe, without prompts, or for those of the data.

    Prompts are given by `generation.prompts` or `.prompt_file`. Rows go to `generation.output` (default
    `<run>/generations.jsonl`; "-" is standard output) and to the screen.

    Raises:
        ConfigError: an unknown option, a bad value, conflicting options, or a model that cannot do it.
        DataError: the prompts cannot be read.
        CheckpointError: no checkpoint, or one that cannot be read or does not fit.
    """
    options = read_section(cfg, Generation)
    prompts = None if options.interactive else read_prompts(options.prompts, options.prompt_file)
    _check(options, prompts)
    if prompts is None and not (options.interactive or options.num_examples or options.split):
        prompts = piped_prompts()
    output = _output(cfg, options)
    weights = chosen_weights(cfg, "generation")
    session = start(cfg, weights.tokenizer)
    if output == STDOUT:
        session.console = plain_console(stderr=True)
    harness = session.harness()
    checkpoint = load_chosen(harness, weights, options.apply_ema)
    trainer = session.trainer([], [])
    harness.to(trainer.strategy.root_device).eval()
    harness.configure_components()
    writer = Writer(harness, current_components())
    traced = tracing(session, harness, checkpoint)
    with torch.inference_mode(), trainer.precision_plugin.forward_context(), traced:
        if options.interactive:
            converse(lambda prompt, number: _samples(writer, [Prompt(prompt)], cfg, options, number), session.console,
                     f"{writer.name} from {display_path(checkpoint)}")  # fmt: skip
            return []
        if prompts is not None or options.num_samples:
            if (options.num_samples or 1) > 1:
                _draw(harness)
            rows = from_prompts(writer, prompts or [Prompt("")], cfg, options)
        else:
            rows = from_data(session, harness, options, _seed(cfg))
    for row in rows:
        row["checkpoint"] = display_path(checkpoint)
    session.write_record(trainer, "generate")
    is_default = options.output is None and options.output_path is None
    _deliver(rows, output, session.console, display_path(checkpoint), is_default)
    return rows


def _output(cfg: DictConfig, options: Generation) -> str:
    """The output path; ConfigError if the rows, or the record in the run's folder, could not be written."""
    if options.interactive:
        return ""  # nothing is written
    run_dir = output_folder(cfg.paths.run_dir, "paths.run_dir")
    key = "output" if options.output is not None else "output_path"
    given: str | None = getattr(options, key)
    if given is None:
        return str(output_file(run_dir / "generations.jsonl", "paths.run_dir"))
    if given == STDOUT:
        return STDOUT
    prompts = options.prompt_file
    return str(output_file(given, f"generation.{key}", read=[] if prompts is None else [prompts]))


def _check(options: Generation, prompts: list[Prompt] | None) -> None:
    """ConfigError for conflicting options."""
    for name in ("prompts", "prompt_file"):
        if options.interactive and getattr(options, name) is not None:
            raise ConfigError(f"interactive=true asks for the prompts. Remove it, or generation.{name}.")
    of_data = [name for name in ("num_examples", "split") if getattr(options, name) is not None]
    of_prompts = [name for name in ("num_samples", "mode") if getattr(options, name) is not None]
    if of_data and (prompts is not None or of_prompts):
        other = "prompts" if prompts is not None else of_prompts[0]
        raise ConfigError(
            f"generation.{of_data[0]} is for prompts from the data and cannot be combined with generation.{other}."
        )


def _seed(cfg: DictConfig) -> int:
    """The seed of the sampler, if it has one, else of the run."""
    own = (cfg.get("predictor") or {}).get("seed")
    return int(cfg.seed if own is None else own)


def _draw(harness: Harness) -> None:
    """Let a greedy sampler draw; the configuration in the record has its temperature too."""
    if options := drawing_options(harness.predictor):
        with open_dict(harness.config):
            harness.config.predictor.update(options)
        harness.predictor = harness.predictor_with(options)


def _samples(
    writer: Writer, prompts: Sequence[Prompt], cfg: DictConfig, options: Generation, number: int = 0
) -> list[Sample]:
    return writer.write(
        [prompt.text for prompt in prompts],
        options.num_samples or 1,
        seed=_seed(cfg) + number,
        mode=options.mode or "auto",
        batch_size=int(options.batch_size or cfg.per_device_val_batch_size),
    )


def from_prompts(
    writer: Writer, prompts: Sequence[Prompt], cfg: DictConfig, options: Generation
) -> list[dict[str, Any]]:
    """A row for each sample of each prompt, with the other fields of the prompt's line."""
    samples = _samples(writer, prompts, cfg, options)
    each = len(samples) // len(prompts)
    return [
        {
            **prompts[place // each].extra,
            "prompt": sample.prompt,
            "prediction": sample.text,
            "mode": sample.mode,
            "sample": sample.number,
            "seed": sample.seed,
            "network_calls": sample.network_calls,
        }
        for place, sample in enumerate(samples)
    ]


def from_data(session: Session, harness: Harness, options: Generation, seed: int) -> list[dict[str, Any]]:
    """Rows for the first prompts of the first prediction loader; for all of them in the split `predict`."""
    datamodule = session.datamodule
    splits = [options.split] if options.split else SPLITS
    for split in splits:
        if (found := datamodule.first_loader(split, "prediction")) is None:
            continue
        index, name = found
        # The split that only `generate` reads has as many examples as it should write.
        num_examples = options.num_examples or (None if split == "predict" else NUM_EXAMPLES)
        manager = datamodule.dataset_managers[split][name]
        if isinstance(manager, UnconditionalGenerationDatasetManager) and num_examples != 1:
            _draw(harness)
        rows: list[dict[str, Any]] = []
        datamodule.setup(STAGES_OF_SPLITS[split])
        with random_state_of(seed):
            for batch_idx, batch in enumerate(getattr(datamodule, f"{split}_dataloader")()[index]):
                rows += _predicted(harness, batch, batch_idx, index, name)
                if num_examples is not None and len(rows) >= num_examples:
                    break
        asked, prompts = options.num_examples, f"prompts in {split}/{name}"
        if said := fewer_than_asked("generation.num_examples", asked, len(rows), prompts):
            session.console.print(said, highlight=False, soft_wrap=True)
        return [{**row, "seed": seed} for row in rows[:num_examples]]
    raise ConfigError(
        f"The datamodule has no prediction loader in {', '.join(splits)}. Give generation.prompts=['…'] instead."
    )


def _predicted(harness: Harness, batch: Any, batch_idx: int, index: int, name: str) -> list[dict[str, Any]]:
    batch = harness.transfer_batch_to_device(batch, harness.device, index)
    predictions = call_at(harness.predictor.predict, batch, batch_idx, index, name)
    rows: list[dict[str, Any]] = harness.predictor.to_dict(batch, predictions)
    calls = calls_of_rows(predictions, len(rows))
    if calls is None:
        return rows
    return [{"network_calls": count, **row} for row, count in zip(rows, calls.tolist(), strict=True)]


def _deliver(rows: Sequence[dict[str, Any]], output: str, console: Console, source: str, is_default: bool) -> None:
    """Write the rows as JSON lines, and show them unless they go to standard output.

    An earlier file at the default place is kept under another name; one that `generation.output` names is replaced.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output == STDOUT:
        sys.stdout.write(lines)
        sys.stdout.flush()
        return
    path, earlier = Path(output), ""
    if is_default:
        if (kept := keep_earlier(path, lines)) is not None:
            earlier = f" The earlier file is now {kept.name}."
    elif path.exists():
        earlier = " It replaced an earlier file."
    replace_text(path, lines)
    for row in rows:
        _show(row, console)
    count = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}"
    console.print(f"{count} from {source}, written to {display_path(path)}.{earlier}", highlight=False, soft_wrap=True)


def _show(row: dict[str, Any], console: Console) -> None:
    """Print one field per line; in a terminal, long texts are wrapped beside the names."""
    shown = {key: str(row[key]) for key in SHOWN if key in row}
    width = max(map(len, shown), default=0)
    if width_of(console):
        table = Table.grid(padding=(0, 2))
        table.add_column(width=width, style="bold")
        table.add_column(overflow="fold")
        for key, text in shown.items():
            table.add_row(key, Text(text))
        console.print(table)
    else:
        for key, text in shown.items():
            console.print(f"{key:<{width}}  {text}", markup=False, highlight=False, soft_wrap=True)
    console.print()
