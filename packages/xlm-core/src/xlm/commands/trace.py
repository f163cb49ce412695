"""`xlm trace RUN…`: the same prompts with several trained models, or traces from files, as a page or a replay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.commands.words import as_value
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.schemas import TraceRuns

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel
    from xlm.traces.document import Document


_OF_SAMPLER = "predictor"


@dataclass(frozen=True)
class Request(TraceRuns):
    """The request of `xlm trace`.

    Args:
        sampler: name → option → value; the name is a run, a family, or "" for all runs.
    """

    sampler: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_request(words: Sequence[str], options: TraceRuns) -> Request:
    """Read the request: runs, options of samplers and the command's own options; ConfigError if no run is named."""
    sampler: dict[str, dict[str, Any]] = {}
    runs: list[str] = []
    for text in words:
        owner, dot, option = text.partition("=")[0].lstrip("+").rpartition(".")
        is_of_sampler = owner == _OF_SAMPLER or owner.endswith(f".{_OF_SAMPLER}")
        if "=" in text and dot and option.isidentifier() and is_of_sampler:
            name = owner.removesuffix(_OF_SAMPLER).removesuffix(".")
            sampler.setdefault(name, {})[option] = as_value(text)
        else:
            runs.append(text)
    runs += options.runs
    if not runs:
        raise ConfigError("Which runs? xlm trace runs/a runs/b, or runs=[runs/a,runs/b], or a trace.json.")
    given = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    return Request(**{**given, "runs": tuple(runs)}, sampler=sampler)


def run_trace(words: Sequence[str], options: TraceRuns) -> int:
    """Write the page and other requested files; returns 0, since errors are raised as XLMError."""
    from xlm.inference.session import quiet_libraries
    from xlm.inference.tracing import check_trace, write_trace, written_files
    from xlm.traces.terminal import replay_in_terminal
    from xlm.utils.consoles import plain_console

    request = read_request(words, options)
    quiet_libraries()
    console = plain_console()
    page = Path("trace.html")
    if all(name.endswith(".json") for name in request.runs):
        page = Path(request.runs[0]).with_suffix(".html")
    page = page if request.out is None else Path(request.out)
    writes = request.out is not None or not request.replay or request.gif or request.png
    if writes:
        check_trace(page, "out", gif=request.gif, png=request.png)
    doc = trace_runs(request)
    if request.replay:
        replay_in_terminal(doc, console)
    if writes:
        write_trace(page, doc, gif=request.gif, png=request.png)
        where = written_files(page, gif=request.gif, png=request.png)
        console.print(f"Written to {where}", highlight=False, soft_wrap=True)
    return 0


def trace_runs(request: Request) -> Document:
    """One document with the traces of all runs.

    Raises:
        ConfigError: a model cannot generate, records nothing, or doesn't have an option; CheckpointError: there is no
            checkpoint; DataError: there is no trace, or no prompts.
    """
    import xlm
    from xlm.traces.document import document, read_document

    # Load all models first: an error in the last one should not cost the work of the others.
    loaded = {
        name: xlm.load(
            name,
            device=request.device,
            apply_ema=request.apply_ema,
            revision=request.revision,
            trust=request.trust or request.trust_remote_code,
        )
        for name in request.runs
        if not name.endswith(".json")
    }
    options = sampler_options(request.sampler, {name: (family(lm), list(lm.options)) for name, lm in loaded.items()})
    asked = _asked(request, next(iter(loaded.values()))) if loaded else None
    runs = []
    for name in request.runs:
        if asked is None or name not in loaded:
            runs += read_document(name)["runs"]
        else:
            runs.append(_traced(request, name, loaded[name], options[name], *asked))
    title = request.title or ", ".join(dict.fromkeys(run["name"] for run in runs))
    return document(title, runs)


def family(lm: TrainedModel) -> str:
    """The name of the run's model family."""
    return str(lm.config.get("model_name") or "")


def sampler_options(
    asked: dict[str, dict[str, Any]], runs: dict[str, tuple[str, list[str]]]
) -> dict[str, dict[str, Any]]:
    """The options of each run's sampler: those for all runs, then for its family, then for itself.

    Args:
        asked: name → option → value; see `Request.sampler`.
        runs: the family of each run, and the options of its sampler.

    Raises:
        ConfigError: there is no such run or family, or a sampler has no such option.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for owner, options in sorted(asked.items(), key=lambda item: _rank(item[0], runs)):
        chosen = [name for name, (kind, _) in runs.items() if owner in ("", kind, short_name(name))]
        if not chosen:
            there = dict.fromkeys(called for name, (kind, _) in runs.items() for called in (kind, short_name(name)))
            names = ", ".join(there) or "none, since all of them are files of traces"
            raise ConfigError(f"{owner or 'This'}.predictor is not the sampler of any run. Runs and families: {names}.")
        for name in chosen:
            kind, known = runs[name]
            for option in options:
                if option not in known:
                    near = did_you_mean(nearest_names(option, known, 1))
                    having = [other for other, its in runs.values() if option in its]
                    only = f"Set it only where it exists: {having[0]}.predictor.{option}=…" if having else ""
                    raise ConfigError(
                        f"The sampler of {short_name(name)} ({kind}) has no option '{option}' (it has "
                        f"{', '.join(known)}). {only or near}".rstrip(),
                        key=f"predictor.{option}",
                    )
            found[name] |= options
    return found


def _rank(owner: str, runs: dict[str, tuple[str, list[str]]]) -> int:
    """The order of application: options for fewer runs come later and win."""
    return 0 if not owner else 1 if owner in {kind for kind, _ in runs.values()} else 2


def _asked(request: Request, lm: TrainedModel) -> tuple[list[str], list[str | None], Any]:
    """Prompts, their answers if the data has them, and the drawing function."""

    from xlm.inference.prompts import read_prompts
    from xlm.inference.session import fewer_than_asked
    from xlm.traces.document import find_view

    view = find_view(request.view or lm.config.get("trace_view"))
    given = read_prompts(request.prompts, request.prompt_file)
    if given is not None:
        return [prompt.text for prompt in given], [None] * len(given), view
    prompts, truths = prompts_of_data(lm, request.split, request.num_prompts)
    if said := fewer_than_asked("num_prompts", request.num_prompts, len(prompts), f"in the '{request.split}' data"):
        from xlm.utils.consoles import plain_console

        plain_console().print(said, highlight=False, soft_wrap=True)
    return prompts, truths, view


def _traced(
    request: Request,
    name: str,
    lm: TrainedModel,
    options: dict[str, Any],
    prompts: list[str],
    truths: list[str | None],
    view: Any,
) -> Any:
    from xlm.inference.traced import traced_run

    own_seed = options.get("seed")
    seed = request.seed if own_seed is None else int(own_seed)
    options = {option: value for option, value in options.items() if option != "seed"}
    run, _ = traced_run(
        lm, prompts, request.num_samples, mode=request.mode, seed=seed, options=options, view=view, truths=truths,
        name=short_name(name),
    )  # fmt: skip
    return run


def short_name(run: str) -> str:
    """The name of a run on the page: the name of its folder."""
    from xlm.inference import traced

    return traced.short_name(run)


def prompts_of_data(lm: TrainedModel, split: str, num_prompts: int) -> tuple[list[str], list[str | None]]:
    """The first prompts of the prediction loader for `split` in a model's configuration, and their answers.

    ConfigError if it has none.
    """
    from xlm.datamodule import STAGES_OF_SPLITS
    from xlm.inference.folders import find_relative_paths
    from xlm.utils.instantiate import components, instantiate

    prompts: list[str] = []
    truths: list[str | None] = []
    config = lm.config.copy()
    find_relative_paths(config, lm.source)
    with components(tokenizer=lm.tokenizer, noise_schedule=lm.harness.noise_schedule):
        datamodule: Any = instantiate(config.datamodule)
        if (found := datamodule.first_loader(split, "prediction")) is not None:
            datamodule.setup(STAGES_OF_SPLITS[split])
            for batch in getattr(datamodule, f"{split}_dataloader")()[found[0]]:
                texts = [_prompt(row, mask, lm.tokenizer) for row, mask in _rows(batch)]
                known = batch.get("target_ids")
                prompts += texts
                truths += [None] * len(texts) if known is None else [_plain(row, lm.tokenizer) for row in known]
                if len(prompts) >= num_prompts:
                    break
    if prompts:
        return prompts[:num_prompts], truths[:num_prompts]
    raise ConfigError(f"{lm.source} has no prompts in its '{split}' data. Give prompts=['…'] instead.", key="prompts")


def _rows(batch: Any) -> list[tuple[Any, Any]]:
    return list(zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True))


def _prompt(ids: list[int], mask: list[bool], tokenizer: Any) -> str:
    """A prompt as text, without special tokens and without the masks reserved for an answer."""
    names = ("pad", "bos", "eos", "cls", "sep")
    unseen = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    kept = [token for token, real in zip(ids, mask, strict=True) if real and token not in unseen]
    while kept and kept[-1] == tokenizer.mask_token_id:
        kept.pop()
    return str(tokenizer.decode(kept)).strip()


def _plain(ids: Any, tokenizer: Any) -> str:
    real = [token for token in ids.tolist() if token >= 0]
    return str(tokenizer.decode(real, skip_special_tokens=True)).strip()
