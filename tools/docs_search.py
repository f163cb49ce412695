"""What the words that people search find in the documentation.

    python tools/docs_search.py                     the table of TERMS, from the sources
    python tools/docs_search.py site                the same from the search index of a built site
    python tools/docs_search.py --words fine tune   the pages that these words find

As the site's own search (lunr) does, this scores sections, prefers headings to text, and accepts words that only begin
with those of the query. Its weights are simpler, and a section must have all words.
"""

from __future__ import annotations

import json
import math
import re
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docs_notebooks
import docs_site
import docs_tables

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WORD = re.compile(r"\w+")
HEADING = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_NOT_TEXT = re.compile(r"<!--.*?-->|\]\([^)]*\)|[*`|#\[\]]", re.DOTALL)

# What people type → the page that must be among the first FIRST that they find: those that a screen shows.
FIRST = 5
TERMS = {
    "install": "quickstart.md",
    "getting started": "quickstart.md",
    "own text": "guide/own-text.md",
    "own data": "guide/data.md",
    "custom dataset": "guide/configuration.md",
    "csv": "guide/data.md",
    "tokenizer": "guide/data.md",
    "streaming": "guide/data.md",
    "which model": "guide/choosing.md",
    "choosing a model": "guide/choosing.md",
    "gpu": "guide/gpu.md",
    "cuda": "guide/gpu.md",
    "mixed precision": "guide/gpu.md",
    "bf16": "guide/gpu.md",
    "compile": "guide/gpu.md",
    "several gpus": "guide/many-processes.md",
    "multi-gpu": "guide/many-processes.md",
    "ddp": "guide/many-processes.md",
    "fsdp": "guide/many-processes.md",
    "slurm": "guide/slurm.md",
    "out of memory": "guide/out-of-memory.md",
    "oom": "guide/out-of-memory.md",
    "batch size": "guide/configuration.md",
    "learning rate": "guide/optimizers.md",
    "optimizer": "guide/optimizers.md",
    "adamw": "guide/optimizers.md",
    "learning rate range test": "guide/optimizers.md",
    "fine-tuning": "guide/fine-tuning.md",
    "finetune": "guide/fine-tuning.md",
    "pretrained weights": "guide/fine-tuning.md",
    "early stopping": "guide/callbacks.md",
    "callbacks": "guide/callbacks.md",
    "profiling": "guide/profiling.md",
    "profiler": "guide/profiling.md",
    "slow training": "guide/profiling.md",
    "resume": "guide/training.md",
    "checkpoint": "guide/training.md",
    "wandb": "guide/training.md",
    "mlflow": "guide/training.md",
    "tensorboard": "guide/training.md",
    "metric": "guide/metrics.md",
    "custom metric": "guide/metrics.md",
    "update function": "guide/metrics.md",
    "sweep": "guide/sweeps.md",
    "hyperparameter": "guide/sweeps.md",
    "reproduce": "guide/repeat.md",
    "generate text": "guide/generate.md",
    "infilling": "models/mdlm.md",
    "sampling": "guide/generate.md",
    "python": "guide/python.md",
    "notebook": "notebooks/first.md",
    "jupyter": "guide/python.md",
    "hugging face": "guide/exchange.md",
    "transformers": "guide/exchange.md",
    "trace": "guide/trace.md",
    "perplexity": "guide/text-quality.md",
    "nll": "guide/evaluate.md",
    "likelihood": "guide/evaluate.md",
    "compare": "guide/report.md",
    "lm-evaluation-harness": "guide/lm-eval.md",
    "own model": "guide/external-models.md",
    "first model": "guide/first-model.md",
    "sudoku": "tasks/puzzles.md",
    "security": "security.md",
    "faq": "faq.md",
    "glossary": "glossary.md",
    "changelog": "changelog.md",
    "cite": "faq.md",
    "completion": "guide/completion.md",
    "autocomplete": "guide/completion.md",
    "error": "guide/cli.md",
}


@dataclass(frozen=True)
class Section:
    """A part of a page below one heading."""

    page: str
    title: str
    heading: str
    text: str
    boost: float = 1.0


def pages(docs: Path = DOCS) -> dict[str, str]:
    """Every page by its path below docs/, as the site's hooks complete it."""
    hooks = (docs_tables.on_page_markdown, docs_notebooks.on_page_markdown, docs_site.on_page_markdown)
    found = {}
    for path in sorted(docs.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        for hook in hooks:
            text = hook(text)
        found[path.relative_to(docs).as_posix()] = text
    return found


def sections(markdown: dict[str, str]) -> Iterator[Section]:
    """The sections of all pages; code belongs to their text."""
    for page, source in markdown.items():
        # A comment in code is not a heading.
        shown = FENCE.sub(lambda fence: re.sub(r"^#", " #", fence[0], flags=re.MULTILINE), source)
        _, *parts = HEADING.split(shown)
        for heading, text in zip(parts[::2], parts[1::2], strict=True):
            yield Section(page, parts[0], heading, _NOT_TEXT.sub(" ", text), docs_site.search_boost(page))


def indexed(site: Path) -> Iterator[Section]:
    """The sections in the search index of a built site."""
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    titles = {entry["location"]: entry["title"] for entry in entries if "#" not in entry["location"]}
    for entry in entries:
        place = entry["location"].partition("#")[0]
        page = (
            "index.md"
            if not place
            else next(name for name in (f"{place.rstrip('/')}.md", f"{place}index.md") if (DOCS / name).is_file())
        )
        text = re.sub(r"<[^>]+>", " ", entry["text"])
        yield Section(page, titles[place], entry["title"], text, entry.get("boost", 1.0))


class Index:
    """Words of all sections, for `search`."""

    def __init__(self, found: Iterable[Section]) -> None:
        self._sections = list(found)
        # Word → number of a section → weight of the word in it.
        self._weights: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for number, section in enumerate(self._sections):
            for weight, text in ((10.0, section.heading), (5.0, section.title), (1.0, section.text)):
                words = WORD.findall(text.lower())
                for word, count in Counter(words).items():
                    # A word is worth more in a short text.
                    self._weights[word][number] += weight * math.log1p(count) / math.log(4 + len(words))
        self._words = sorted(self._weights)

    def search(self, query: str) -> list[str]:
        """Pages with a section that has all words of the query, or words that begin with them; the best first."""
        scores = [self._scores(word) for word in WORD.findall(query.lower())]
        best: dict[str, float] = {}
        for number in set.intersection(*(set(each) for each in scores)):
            section = self._sections[number]
            score = section.boost * sum(each[number] for each in scores)
            best[section.page] = max(score, best.get(section.page, 0))
        return sorted(best, key=lambda page: (-best[page], page))

    def _scores(self, prefix: str) -> dict[int, float]:
        """Weights by section of all words that begin with `prefix`; a whole word, or its plural, counts twice."""
        stem = re.sub("(ing|ed|es|e|s)$", "", prefix) if len(prefix) > 4 else prefix
        found: dict[int, float] = defaultdict(float)
        for word in self._words[bisect_left(self._words, stem) :]:
            if not word.startswith(stem):
                break
            for number, weight in self._weights[word].items():
                found[number] += weight * (2 if word in (prefix, f"{prefix}s", stem) else 1)
        return found


def main(argv: list[str]) -> int:
    """Print what the terms, or the given words, find."""
    if argv[:1] == ["--words"]:
        print("\n".join(Index(sections(pages())).search(" ".join(argv[1:]))[:10]))
        return 0
    index = Index(indexed(Path(argv[0])) if argv else sections(pages()))
    print("| searched | found |\n|---|---|")
    missed = 0
    for query, page in TERMS.items():
        first = index.search(query)[:FIRST]
        missed += page not in first
        print(f"| {query} | {', '.join(first)}{'' if page in first else f' (not {page})'} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
