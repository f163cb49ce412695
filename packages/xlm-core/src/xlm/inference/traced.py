"""What `lm.trace` returns: recorded generation, which shows itself in a notebook and is saved as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.decoding.trace import record
from xlm.errors import ConfigError
from xlm.inference.session import display_path
from xlm.inference.sources import folder_of
from xlm.inference.tracing import check_trace, sampler_of, write_trace
from xlm.inference.writer import drawing_options
from xlm.traces.document import Document, Run, View, describe_run, document, find_view, render_page
from xlm.utils.weight_files import is_weights_alone

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel

# Pixels of a page in a notebook: of one text, and of more than that.
_LOW, _HIGH = 360, 640


class TracedGeneration:
    """A recording of every network call and every token of some generated texts.

    In a notebook, the last line of a cell shows it as a page with a slider; `save` writes that page.

    Attributes:
        document: the recording as JSON-able values, the content of `trace.json` (docs/guide/trace.md).
        texts: the generated texts, in order, as `generate` returns them.
    """

    def __init__(self, doc: Document, texts: Sequence[str]) -> None:
        self.document = doc
        self.texts = list(texts)

    @property
    def calls(self) -> list[int]:
        """Network calls of each text."""
        return [sample["calls"] for run in self.document["runs"] for sample in run["samples"]]

    def save(self, path: str | Path = "trace.html", *, gif: bool = False, png: bool = False) -> Path:
        """Write the page, and the recording as `.json` beside it; returns the page.

        Args:
            path: of the page. Existing files are replaced.
            gif, png: also write an animation and a strip of frames of the first text.

        Raises:
            ConfigError: one of the files cannot be written.
        """
        return write_trace(check_trace(Path(path), "path", gif=gif, png=png), self.document, gif=gif, png=png)

    def __repr__(self) -> str:
        texts = "1 text" if len(self.texts) == 1 else f"{len(self.texts)} texts"
        return f"TracedGeneration({texts}, {sum(self.calls)} network calls; save('trace.html') writes a page)"

    def _repr_html_(self) -> str:
        # In a frame of its own: the page's scripts and styles must not meet those of the notebook.
        page = escape(render_page(self.document), quote=True)
        samples = [sample for run in self.document["runs"] for sample in run["samples"]]
        height = _LOW if len(samples) == 1 and samples[0]["drawing"] is None else _HIGH
        style = f"width:100%;height:{height}px;border:1px solid #8884"
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="{style}" title="trace"></iframe>'


def trace_texts(
    lm: TrainedModel,
    prompts: Sequence[str],
    num_samples: int = 1,
    *,
    mode: str = "auto",
    seed: int | None = None,
    title: str | None = None,
    **options: Any,
) -> TracedGeneration:
    """Generate and record texts; see `TrainedModel.trace`."""
    name = short_name(lm.source)
    if not prompts or num_samples < 1:
        raise ConfigError("There is nothing to trace: give at least one prompt, and num_samples of at least 1.")
    run, texts = traced_run(
        lm, prompts, num_samples, mode=mode, seed=seed, options=options, view=find_view(lm.config.get("trace_view"))
    )
    return TracedGeneration(document(title or name, [run]), texts)


def traced_run(
    lm: TrainedModel,
    prompts: Sequence[str],
    num_samples: int,
    *,
    mode: str,
    seed: int | None,
    options: dict[str, Any],
    view: View | None,
    truths: Sequence[str | None] = (),
    name: str | None = None,
) -> tuple[Run, list[str]]:
    """Record one run of a document, and the generated texts, `num_samples` for each prompt.

    Args:
        seed: that of the first prompt; the others count up from it. None continues the random stream of `xlm.load`.
        options: of the sampler.
        view: draws a prompt.
        truths: the right answer of each prompt, where it is known.
        name: of the run on the page; None for that of its folder.
    """
    if num_samples > 1 and "temperature" not in options:
        options = options | drawing_options(lm.predictor)
    texts: list[str] = []
    with record() as recorder:
        # One prompt at a time, so that traces are in the same order.
        for number, prompt in enumerate(prompts):
            own = None if seed is None else seed + number
            texts += [sample.text for sample in lm.samples(prompt, num_samples, mode=mode, seed=own, **options)]
    run = describe_run(
        name or short_name(lm.source),
        recorder.traces,
        lm.tokenizer,
        model=str(lm.config.get("model_name") or ""),
        checkpoint=display_path(lm.source),
        sampler={**sampler_of(lm.config), **options},
        view=view,
        prompts=[prompt for prompt in prompts for _ in range(num_samples)],
        truths=[truth for truth in truths for _ in range(num_samples)],
    )
    return run, texts


def short_name(run: str | Path) -> str:
    """The name of a run on the page: the name of its folder."""
    path = Path(run)
    if path.suffix == ".ckpt" or is_weights_alone(path):
        path = folder_of(path)
    return path.name or str(run)
