"""Short stories by path, TinyStories or ROCStories, and infilling of their middle sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xlm.data.file_rows import rows_of_file, type_of_file
from xlm.data.functional import ids_of_texts
from xlm.errors import DataError
from xlm.tasks.corpus_files import CorpusFile
from xlm.utils.text_files import Row, checked_text, read_lines

SEPARATOR = "<|endoftext|>"  # of TinyStories
_SENTENCES = tuple(f"sentence{number}" for number in range(1, 6))  # the columns of ROCStories


class Stories(CorpusFile):
    """Rows `text`, one story each.

    The file is a `.txt` with stories of several lines, separated by lines `<|endoftext|>` (TinyStories), or a table
    with the columns `sentence1` to `sentence5` (ROCStories) or `text`. Stories of fewer than `min_sentences` sentences
    are left out.
    """

    name = "Stories"

    def __init__(
        self, tokenizer: Any = None, num_examples: int | None = None, *, min_sentences: int = 3, **options: Any
    ) -> None:
        super().__init__(tokenizer, num_examples, **options)
        self.min_sentences = min_sentences

    def texts_of(self, path: Path) -> Iterator[str]:
        stories = _separated(path) if type_of_file(path) == ".txt" else map(_of_row, rows_of_file(path))
        return (story for story in stories if len(sentences_of(story)) >= self.min_sentences)


def _separated(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for line in read_lines(path):
        # A story may end in the line of the separator.
        *ends, rest = line.text.split(SEPARATOR)
        for end in ends:
            if story := "\n".join([*lines, end]).strip():
                yield story
            lines = []
        lines.append(rest)
    if story := "\n".join(lines).strip():
        yield story


def _of_row(found: Row) -> str:
    row, where = found.value, found.where
    columns = ("text",) if "text" in row else _SENTENCES
    if missing := [name for name in columns if name not in row]:
        raise DataError(
            f"{where}: the column {missing[0]!r} is missing; it has: {', '.join(row)}. "
            "Stories have a column text, or sentence1 to sentence5."
        )
    return " ".join(checked_text(row[name], name).strip() for name in columns)


# The end of a sentence, with what closes it, before a blank.
_END = re.compile(r"[.!?][\"'”’)]*(?=\s)")


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with the blanks before it; joined, they are the text."""
    starts = [0]
    for end in _END.finditer(text):
        if text[end.end() :].strip():
            starts.append(end.end())
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def middle_missing(example: Mapping[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    """`input_ids` of a story, and `prompt_ids` with a mask for each token of its middle sentence.

    The middle of an even number of sentences is the later one.

    Raises:
        DataError: the story has no column `text`, or fewer than three sentences.
    """
    if "text" not in example:
        raise DataError(f"the column 'text' is missing; it has: {', '.join(example) or 'none'}.")
    text = checked_text(example["text"], "text")
    sentences = sentences_of(text)
    if len(sentences) < 3:
        raise DataError(f"a story needs three sentences, one of them to be missing, but this one has {len(sentences)}.")
    middle = len(sentences) // 2
    parts = ["".join(sentences[:middle]), sentences[middle], "".join(sentences[middle + 1 :])]
    before, missing, after = ids_of_texts(parts, tokenizer)
    return {
        "input_ids": [*before, *missing, *after],
        "prompt_ids": [*before, *[tokenizer.mask_token_id] * len(missing), *after],
        "num_bytes": len(text.encode()),
    }
