"""The README.md of an exported model: what it is, what it was trained on, what was measured, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from xlm.errors import as_line
from xlm.reports.files import number, read_mapping
from xlm.utils.secrets import without_secrets

_TASKS = {
    "answer": "answers prompts",
    "continue": "continues texts, and writes texts without a prompt",
}
_CALLS = {
    "answer": 'lm.generate("a prompt")',
    "continue": 'lm.continue_text("The beginning of a text")',
}


@dataclass(frozen=True)
class Origin:
    """Where exported weights come from.

    Args:
        weights: the file of the weights; None if unknown.
        is_unchanged: whether the weights are those of the file.
        is_averaged, has_averages: whether they are the averaged ones, and whether the file has these.
        step: optimizer steps, if the file says so.
        data: source and number of examples of each training set, from the checkpoint.
    """

    weights: Path | None = None
    is_unchanged: bool = False
    is_averaged: bool = False
    has_averages: bool = False
    step: int | None = None
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def model_card(config: DictConfig, model: nn.Module, tokenizer: Any, origin: Origin) -> str:
    """The text of the card; facts that are not recorded are left out."""
    family = str(config.get("model_name") or type(model).__module__.partition(".")[0])
    results = list(_results(origin)) if origin.is_unchanged else []
    lines = [
        "---",
        "library_name: xlm",
        f"tags: [xlm, {family}]",
        "---",
        "",
        f"# {as_line(config.get('job_name') or family)}",
        "",
        f"A language model of the family `{family}`, trained with xlm-core. It {_task(config)}.",
        "",
        *_table(["", ""], _facts(config, model, tokenizer, origin)),
        "",
        "## Results",
        "",
        *_results_section(results, origin),
        "",
        "## Use",
        "",
        f"With xlm-core and the package of `{family}` installed, where `path` is this folder or its id on the hub:",
        "",
        "```python",
        "import xlm",
        "",
        "lm = xlm.load(path)",
        f"print({_CALLS[_mode(config)]})",
        "```",
        "",
        "## Licence",
        "",
        "No licence has been chosen for these weights. Whoever shares them adds one here, and checks the terms of the "
        "training data.",
        "",
        "## Limits",
        "",
        *[f"- {limit}" for limit in _limits(config, tokenizer, results)],
    ]
    return "\n".join(lines) + "\n"


def _mode(config: DictConfig) -> str:
    return "continue" if config.get("prompt_mode") == "continue" else "answer"


def _task(config: DictConfig) -> str:
    managers: Any = OmegaConf.select(config, "datamodule.dataset_managers") or {}
    loaders = [name for split in managers.values() if split for name in split]
    fills = any("infill" in str(name) for name in loaders)
    return _TASKS[_mode(config)] + (", and fills gaps" if fills else "")


def _facts(config: DictConfig, model: nn.Module, tokenizer: Any, origin: Origin) -> Iterator[tuple[str, str]]:
    size = sum(parameter.numel() for parameter in model.parameters())
    yield "network", f"`{type(model).__module__}.{type(model).__name__}`, {size:,} parameters"
    choices = _record(origin).get("choices")
    if isinstance(choices, Mapping):
        shown = [f"{group}={choices[group]}" for group in ("experiment", "datamodule", "model") if group in choices]
        yield "choices", " ".join(f"`{as_line(word)}`" for word in shown)
    if data := list(_data(config, origin)):
        yield "training data", ", ".join(data)
    vocabulary = getattr(tokenizer, "full_vocab_size", None)
    if tokenizer is not None:
        yield "tokenizer", type(tokenizer).__name__ + (f", {vocabulary:,} tokens" if vocabulary else "")
    if lengths := ", ".join(_lengths(config)):
        yield "lengths", lengths
    if origin.step is not None:
        optimizer = str(OmegaConf.select(config, "optimizer._target_") or "").rpartition(".")[2]
        rate = OmegaConf.select(config, "optimizer.lr")
        batch = config.get("global_batch_size") or config.get("per_device_batch_size")
        yield "training", f"{origin.step:,} steps of {batch} examples, {optimizer} lr {rate}, seed {config.get('seed')}"


def _data(config: DictConfig, origin: Origin) -> Iterator[str]:
    managers: Any = OmegaConf.select(config, "datamodule.dataset_managers.train") or {}
    for name, manager in managers.items():
        known = origin.data.get(str(name))
        if known:
            # Only the last part: a path says more about the machine than about the data.
            yield f"{as_line(Path(str(known['source'])).name)} ({known['num_examples']:,} examples)"
        elif manager and (source := manager.get("dataset_constructor_str")):
            most = manager.get("num_examples")
            yield f"generated by `{as_line(source)}`" + (f" ({most:,} examples)" if isinstance(most, int) else "")


def _lengths(config: DictConfig) -> Iterator[str]:
    prompt, block = config.get("input_block_size"), config.get("block_size")
    if prompt is not None:
        yield f"prompts of at most {prompt} tokens"
    if block is not None:
        yield f"{'answers' if prompt is not None else 'texts'} of at most {block} tokens, with BOS and EOS"


def _run_folder(origin: Origin) -> Path | None:
    """The run of a checkpoint in its folder `checkpoints`."""
    weights = origin.weights
    return weights.parent.parent if weights is not None and weights.parent.name == "checkpoints" else None


def _record(origin: Origin) -> dict[str, Any]:
    folder = _run_folder(origin)
    return {} if folder is None else read_mapping(folder / "record_train.json", [])


@dataclass(frozen=True)
class _Result:
    split: str
    data: str
    metric: str
    value: float
    error: float | None
    n: int | None


def _results(origin: Origin) -> Iterator[_Result]:
    """What evaluations measured with exactly these weights: the test at the end of training, and `xlm eval`."""
    folder = _run_folder(origin)
    if folder is None or origin.weights is None:
        return
    found: dict[str, _Result] = {}
    for path in (folder / "results.json", *sorted(folder.glob("eval_*.json"))):
        record = read_mapping(path, [])
        tested = record.get("weights")
        is_last = tested is None and origin.weights.stem == "last" and record.get("step") == origin.step
        if not is_last and (tested is None or Path(str(tested)).absolute() != origin.weights.absolute()):
            continue
        if record.get("averaged_weights", origin.has_averages) != origin.is_averaged:
            continue
        for name, result in (record.get("results") or {}).items():
            split, _, rest = str(name).partition("/")
            # At the end of training, only the test is repeated with the chosen weights.
            if split == "train" or not rest or not isinstance(result, Mapping):
                continue
            if path.name == "results.json" and tested is not None and split != "test":
                continue
            value, n = number(result.get("value")), number(result.get("n"))
            if value is not None:
                data, _, metric = rest.rpartition("/")
                found[name] = _Result(
                    split, data, metric, value, number(result.get("se")), None if n is None else int(n)
                )
    yield from found.values()


def _results_section(results: Sequence[_Result], origin: Origin) -> Iterator[str]:
    if not results:
        yield "No results of these weights are recorded. `xlm eval` measures them."
        return
    rows = [
        (r.split, r.data, r.metric, f"{r.value:.4g}", "" if r.error is None else f"{r.error:.2g}",
         "" if r.n is None else f"{r.n:,}")
        for r in results
    ]  # fmt: skip
    yield from _table(["split", "data set", "metric", "value", "± s.e.", "n"], rows)
    yield ""
    yield "s.e. is the standard error over the n examples. Losses of different families are different quantities."


def _limits(config: DictConfig, tokenizer: Any, results: Sequence[_Result]) -> Iterator[str]:
    yield "It was trained on the data above only. Nothing is known about other kinds of text."
    if lengths := " and ".join(_lengths(config)):
        yield f"It is limited to {lengths}."
    if getattr(tokenizer, "unk_token_id", None) is not None:
        yield "Words that the tokenizer cannot represent become its unknown token."
    if results:
        yield "The results are on data from the same source as the training data."
    if getattr(tokenizer, "is_text", True):
        yield "Generated text can be false or harmful; it has not been checked for either."


def _table(header: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(without_secrets(as_line(cell)).replace("|", "\\|") for cell in row) + " |"


__all__ = ["Origin", "model_card"]
