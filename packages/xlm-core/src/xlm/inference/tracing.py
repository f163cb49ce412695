"""`trace=true` for jobs that predict: records the first rows and writes trace.json and trace.html."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.compose.checks import trace_options
from xlm.decoding.trace import Trace, record
from xlm.errors import ConfigError
from xlm.harness import Harness
from xlm.inference.session import Session, display_path
from xlm.schemas import Trace as Options
from xlm.traces.document import Document, View, describe_run, document, find_view, write_document, write_page
from xlm.utils.files import output_file
from xlm.utils.rank_zero import all_gather_objects, get_rank

# Keys of a predictor's configuration that are not options.
_NOT_OPTIONS = ("_target_", "tokenizer", "noise_schedule", "model")


@contextmanager
def tracing(session: Session, harness: Harness, checkpoint: Path, default: Options | None = None) -> Iterator[None]:
    """Record what the harness' predictor generates in a block, if `trace` is on, and write the files at the end.

    With `default`, record also where `trace` is off, if anything is generated that can be recorded.

    Each process records its share, and the first one writes all of them.
    """
    asked = trace_options(session.cfg)
    options = asked or default
    if options is None:
        yield
        return
    view = find_view(session.cfg.get("trace_view"))
    page = check_trace(session.run_dir / "trace.html", "paths.run_dir", gif=options.gif, png=options.png)
    with record(limit=options.num_samples) as recorder:
        yield
    # Shares are consecutive, so joined they are in the order of the data.
    traces = [trace for share in all_gather_objects(recorder.traces) for trace in share][: options.num_samples]
    if get_rank() == 0 and (traces or asked):
        doc = _document(session.cfg, harness, checkpoint, traces, view)
        written = write_trace(page, doc, gif=options.gif, png=options.png)
        where = written_files(written, options.gif, options.png)
        session.console.print(f"The trace is in {where}", highlight=False, soft_wrap=True)


def _document(cfg: DictConfig, harness: Harness, checkpoint: Path, traces: list[Trace], view: View | None) -> Document:
    run = describe_run(
        str(cfg.job_name),
        traces,
        harness.tokenizer,
        model=str(cfg.get("model_name") or ""),
        checkpoint=display_path(checkpoint),
        sampler=sampler_of(cfg),
        view=view,
    )
    return document(str(cfg.job_name), [run])


def sampler_of(cfg: DictConfig) -> dict[str, Any]:
    """The options of the predictor in the configuration."""
    plain = OmegaConf.to_container(cfg.predictor, resolve=False) if cfg.get("predictor") else {}
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in _NOT_OPTIONS}


def check_trace(page: Path, key: str, gif: bool = False, png: bool = False) -> Path:
    """`page`, if it and the files beside it can be written; otherwise a ConfigError that names `key`."""
    if page.suffix in (".json", ".gif", ".png"):
        raise ConfigError(f"{key}: {page} cannot be the page: its {page.suffix} file is written beside it.", key=key)
    for suffix in (page.suffix, ".json", *([".gif"] if gif else []), *([".png"] if png else [])):
        output_file(page.with_suffix(suffix), key)
    return page


def written_files(page: Path, gif: bool = False, png: bool = False) -> str:
    """The paths of a page and its pictures, as the end of a sentence."""
    parts = [f"{display_path(page)}, a page for a browser"]
    parts += [f"the animation in {display_path(page.with_suffix('.gif'))}"] if gif else []
    parts += [f"frames of it in {display_path(page.with_suffix('.png'))}"] if png else []
    return f"{'; '.join(parts)}."


def write_trace(page: Path, doc: Document, gif: bool = False, png: bool = False) -> Path:
    """Write a page, its document beside it, and pictures if requested; returns the page."""
    write_document(page.with_suffix(".json"), doc)
    write_page(page, doc)
    if gif or png:
        from xlm.traces.pictures import write_gif, write_strip

        if gif:
            write_gif(page.with_suffix(".gif"), doc)
        if png:
            write_strip(page.with_suffix(".png"), doc)
    return page
