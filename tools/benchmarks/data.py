"""Collators, and the preparation of texts and of generated examples."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import OURS, XLM, Case, Setting, Spent, Way, of_command
from benchmarks.networks import FAMILIES, Shape, collator_of, examples_of

SHAPE = Shape(B=64, L=128, V=8000)


def cases(setting: Setting) -> list[Case]:
    """Collators at two lengths; preparing a file of texts and a generated task."""
    shapes = [replace(SHAPE, B=8)] if setting.is_quick else [SHAPE, replace(SHAPE, L=1024)]
    texts = 500 if setting.is_quick else 50_000
    return [
        *(
            Case("collators", f"{family}, {shape.B} × {shape.L}", "rows of half to whole length, V 8,000", "examples",
                 _collators(family, shape), 3, 15)
            for shape in shapes for family in FAMILIES
        ),
        Case("preparation", "a file of texts", f"{texts:,} texts of 20 words, BPE", "texts", _texts(texts), 0, 3),
        Case("preparation", "generated graphs", "star_easy, 50,000 examples", "examples", _graphs, 0, 3),
    ]  # fmt: skip


def _collators(family: str, shape: Shape) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        collate: Any = collator_of(family, shape)
        texts = examples_of(shape, shape.B * 8, shortest=0.5)
        rows = [texts[start : start + shape.B] for start in range(0, len(texts), shape.B)]

        def run() -> None:
            for part in rows:
                collate(part)

        yield [Way(OURS, run, len(texts))]

    return opened


def _texts(number: int) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        with tempfile.TemporaryDirectory() as folder:
            draw = random.Random(0)
            known = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(2000)]
            lines = [" ".join(draw.choices(known, k=20)) for _ in range(number)]
            (Path(folder) / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            names = ["experiment=own_text", "model_type=mlm", "model=xtiny_mlm"]

            def ours() -> Spent:
                data = ["data_files.train=texts.txt", "tokenizer=bpe"]
                return _fresh(["prepare_data", *names, *data], Path(folder))

            yield [Way(OURS, ours, number), Way("tokenizers alone", lambda: _tokenizers_alone(lines), number)]

    return opened


def _tokenizers_alone(lines: list[str]) -> None:
    """Train a tokenizer on the texts and encode them all, as the library's own page shows it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    tokenizer.encode_batch(lines)


@contextmanager
def _graphs(setting: Setting) -> Iterator[list[Way]]:
    words = ["prepare_data", "experiment=star_easy_arlm"]
    with tempfile.TemporaryDirectory() as folder:
        yield [Way(OURS, lambda: _fresh(words, Path(folder)), 50_000)]


def _fresh(words: list[str], folder: Path) -> Spent:
    """A command with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        return of_command([*XLM, *words], folder, {"XLM_CACHE_DIR": cache})
