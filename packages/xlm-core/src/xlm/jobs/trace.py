"""`xlm trace RUN…`: the same prompts through several trained models, or traces from files, as a page or a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.cli.words import is_job
from xlm.errors import ConfigError, did_you_mean, nearest_names

if TYPE_CHECKING:
    from xlm.traces.document import Document
    from xlm.trained import TrainedModel

JOB = "trace"
STAGES = {"test": "test", "val": "validate"}


@dataclass(frozen=True)
class Request:
    """What `xlm trace` is asked for.

    Args:
        runs: runs' folders, checkpoints, exported folders or ids of the hub; files that end in .json are traces.
        prompts: None takes `num_prompts` of the first run's `split`.
        num_samples: of each prompt and run.
        seed: from which all runs draw.
        view: dotted name of the function that draws a prompt; None takes the first run's `trace_view`.
        out: the page; its JSON, GIF and PNG stand beside it. None: trace.html, or beside a trace that was given.
        gif, png, replay: also an animation, a strip of moments, a replay in the terminal.
    """

    runs: tuple[str, ...]
    prompts: tuple[str, ...] | None = None
    num_prompts: int = 4
    num_samples: int = 1
    split: str = "test"
    seed: int = 0
    device: str = "cpu"
    view: str | None = None
    title: str | None = None
    out: str | None = None
    gif: bool = False
    png: bool = False
    replay: bool = False


def is_trace(args: Sequence[str]) -> bool:
    """Whether a command line asks for this job, which reads the configurations of the runs instead of composing one."""
    return is_job(JOB, args)


def read_request(args: Sequence[str]) -> Request:
    """The request of a command line: names of runs and `key=value`; ConfigError for anything else."""
    import yaml

    rest = list(args)
    rest.remove(JOB if JOB in rest else f"job_type={JOB}")
    known = [field.name for field in fields(Request)]
    given: dict[str, Any] = {}
    runs: list[str] = []
    for text in rest:
        key, equals, value = text.partition("=")
        if not equals:
            if text.startswith("-"):
                raise ConfigError(f"xlm {JOB} takes no {text}. Options are written key=value: {', '.join(known)}.")
            runs.append(text)
            continue
        if key not in known:
            hint = did_you_mean(nearest_names(key, known, 1))
            raise ConfigError(f"Unknown option '{key}'. Options: {', '.join(known)}. {hint}".rstrip(), key=key)
        try:
            given[key] = yaml.safe_load(value) if key not in ("prompts", "runs") else _listed(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text} cannot be read. A list is written [a,b].", key=key) from error
    runs += given.pop("runs", ())
    if not runs:
        raise ConfigError(f"Which runs? xlm {JOB} runs/a runs/b, or runs=[runs/a,runs/b], or a trace.json.")
    return _checked(Request(tuple(runs), **given))


def _listed(value: str) -> tuple[str, ...]:
    """`[a,b]` or one value, as texts: a prompt of digits stays a prompt."""
    import yaml

    loaded = yaml.load(value, Loader=yaml.BaseLoader) if value.startswith("[") else [value]
    return tuple(str(item) for item in loaded)


def _checked(request: Request) -> Request:
    for name in ("num_prompts", "num_samples"):
        value = getattr(request, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value}, and must be at least 1.", key=name)
    for name in ("gif", "png", "replay"):
        if not isinstance(getattr(request, name), bool):
            raise ConfigError(f"{name} is {getattr(request, name)}, and must be true or false.", key=name)
    if request.split not in STAGES:
        raise ConfigError(f"split is '{request.split}', and must be one of: {', '.join(STAGES)}.", key="split")
    return request


def run_trace(args: Sequence[str]) -> int:
    """Write and show what was asked for; always 0, since mistakes are raised as XLMError."""
    from rich.console import Console

    from xlm.jobs.session import quiet_libraries, shown
    from xlm.jobs.tracing import write_trace
    from xlm.traces.terminal import replay_in_terminal

    request = read_request(args)
    quiet_libraries()
    console = Console()
    doc, beside = trace_runs(request), Path("trace.html")
    if all(name.endswith(".json") for name in request.runs):
        beside = Path(request.runs[0]).with_suffix(".html")
    if request.replay:
        replay_in_terminal(doc, console)
    if request.out or not request.replay or request.gif or request.png:
        page = write_trace(Path(request.out or beside), doc, gif=request.gif, png=request.png)
        console.print(f"Written to {shown(page)}, to be opened in a browser.", soft_wrap=True)
    return 0


def trace_runs(request: Request) -> Document:
    """One document of all runs.

    Raises:
        ConfigError: a model cannot write, or records nothing; CheckpointError: there is none; DataError: no trace.
    """
    from xlm.traces.document import document, read_document

    runs, asked = [], None
    for name in request.runs:
        if name.endswith(".json"):
            runs += read_document(name)["runs"]
            continue
        import xlm

        lm = xlm.load(name, device=request.device)
        asked = asked or _asked(request, lm)
        runs.append(_traced(request, name, lm, *asked))
    title = request.title or ", ".join(dict.fromkeys(run["name"] for run in runs))
    return document(title, runs)


def _asked(request: Request, lm: TrainedModel) -> tuple[list[str], list[str | None], Any]:
    """Prompts, their answers where the data has them, and the drawing function."""
    from xlm.traces.document import find_view

    view = find_view(request.view or lm.config.get("trace_view"))
    if request.prompts is not None:
        return list(request.prompts), [None] * len(request.prompts), view
    return *prompts_of_data(lm, request.split, request.num_prompts), view


def _traced(
    request: Request, name: str, lm: TrainedModel, prompts: list[str], truths: list[str | None], view: Any
) -> Any:
    from xlm.decoding.trace import record
    from xlm.jobs.session import shown
    from xlm.jobs.tracing import sampler_of
    from xlm.traces.document import describe_run

    with record() as recorder:
        # One prompt after the other, so that traces come in their order.
        for number, prompt in enumerate(prompts):
            lm.generate(prompt, request.num_samples, seed=request.seed + number)
    return describe_run(
        short_name(name),
        recorder.traces,
        lm.tokenizer,
        model=str(lm.config.get("model_name") or ""),
        checkpoint=shown(lm.source),
        sampler=sampler_of(lm.config),
        view=view,
        prompts=[prompt for prompt in prompts for _ in range(request.num_samples)],
        truths=[truth for truth in truths for _ in range(request.num_samples)],
    )


def short_name(run: str) -> str:
    """What a run is called on the page: its folder's name."""
    from xlm.utils.weight_files import is_weights_alone

    path = Path(run)
    if path.suffix == ".ckpt" or is_weights_alone(path):
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return path.name or str(run)


def prompts_of_data(lm: TrainedModel, split: str, num_prompts: int) -> tuple[list[str], list[str | None]]:
    """The first prompts of the prediction loader that a model's configuration has for `split`, and their answers.

    ConfigError if it has none.
    """
    from xlm.utils.components import components
    from xlm.utils.instantiate import instantiate

    prompts: list[str] = []
    truths: list[str | None] = []
    with components(tokenizer=lm.tokenizer, noise_schedule=lm.harness.noise_schedule):
        datamodule: Any = instantiate(lm.config.datamodule)
        for index, name in datamodule.dataloader_names.get(split, {}).items():
            if datamodule.role(split, name) != "prediction":
                continue
            datamodule.setup(STAGES[split])
            for batch in getattr(datamodule, f"{split}_dataloader")()[index]:
                texts = [_prompt(row, mask, lm.tokenizer) for row, mask in _rows(batch)]
                known = batch.get("target_ids")
                prompts += texts
                truths += [None] * len(texts) if known is None else [_plain(row, lm.tokenizer) for row in known]
                if len(prompts) >= num_prompts:
                    return prompts[:num_prompts], truths[:num_prompts]
            if prompts:
                return prompts, truths
    raise ConfigError(f"{lm.source} has no prompts in its '{split}' data. Give prompts=['…'] instead.", key="prompts")


def _rows(batch: Any) -> list[tuple[Any, Any]]:
    return list(zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True))


def _prompt(ids: list[int], mask: list[bool], tokenizer: Any) -> str:
    """A prompt as text: special tokens left out, and the masks that are only room for an answer."""
    names = ("pad", "bos", "eos", "cls", "sep")
    unseen = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    kept = [token for token, real in zip(ids, mask, strict=True) if real and token not in unseen]
    while kept and kept[-1] == tokenizer.mask_token_id:
        kept.pop()
    return str(tokenizer.decode(kept)).strip()


def _plain(ids: Any, tokenizer: Any) -> str:
    real = [token for token in ids.tolist() if token >= 0]
    return str(tokenizer.decode(real, skip_special_tokens=True)).strip()
