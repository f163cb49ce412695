"""A small document: two ways of writing on a star graph, and a text with a gap."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.trace import Recorder
from xlm.tasks.star import draw_graph
from xlm.traces.document import Document, describe_run, document, grid

PROMPT = "0 1 1 2 0 3 3 4 0 2"
ANSWER = "0 1 1 2"


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(vocab_size=9)


def ids_of(tokenizer: SimpleSpaceTokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def logits_for(tokenizer: SimpleSpaceTokenizer, token: int) -> torch.Tensor:
    """Of one row: the token, and less of the two next to it."""
    logits = torch.zeros(1, len(tokenizer))
    logits[0, token], logits[0, (token + 1) % len(tokenizer)] = 4.0, 2.0
    return logits


def inserting(tokenizer: SimpleSpaceTokenizer) -> Recorder:
    """Writes `0 1 1 2` from the outside in, and says it is complete."""
    recorder = Recorder()
    given = [tokenizer.cls_token_id, *ids_of(tokenizer, PROMPT), tokenizer.bos_token_id]
    recorder.begin(torch.tensor([given]), torch.ones(1, len(given), dtype=torch.bool), len(given))
    last = len(given) - 1
    for word, slot in (("0", last), ("2", last + 1), ("1", last + 1), ("1", last + 2)):
        token = ids_of(tokenizer, word)[0]
        recorder.step(torch.tensor([0]))
        recorder.said(torch.tensor([0]), torch.tensor([0.01]))
        recorder.inserted(0, [slot], [0.5], torch.tensor([token]), logits_for(tokenizer, token))
    recorder.step(torch.tensor([0]))
    recorder.said(torch.tensor([0]), torch.tensor([0.99]))
    return recorder


def unmasking(tokenizer: SimpleSpaceTokenizer, answer: str) -> Recorder:
    """Fills six masks from the right, EOS and one more behind it first; what is behind the end goes."""
    recorder = Recorder()
    words, eos = ids_of(tokenizer, answer), tokenizer.eos_token_id
    given = [*ids_of(tokenizer, PROMPT), tokenizer.bos_token_id]
    row = given + [tokenizer.mask_token_id] * (len(words) + 2)
    recorder.begin(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool), len(given))
    for place, token in reversed(list(enumerate([*words, eos, eos]))):
        recorder.step(torch.tensor([0]))
        at = torch.tensor([len(given) + place])
        recorder.wrote(torch.tensor([0]), at, torch.tensor([token]), logits_for(tokenizer, token))
    gone = torch.zeros(1, len(row), dtype=torch.bool)
    gone[0, -1] = True
    recorder.removed(gone)
    return recorder


def infilling(tokenizer: SimpleSpaceTokenizer) -> Recorder:
    """Fills the gap of `5 [MASK] 7`."""
    recorder = Recorder()
    word = ids_of(tokenizer, "6")[0]
    row = [tokenizer.bos_token_id, *ids_of(tokenizer, "5"), tokenizer.mask_token_id, *ids_of(tokenizer, "7")]
    truth = torch.tensor([ids_of(tokenizer, "5 6 7")])
    recorder.begin(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool), 1, truth, tokenizer.pad_token_id)
    recorder.step(torch.tensor([0]))
    recorder.wrote(torch.tensor([0]), torch.tensor([2]), torch.tensor([word]), logits_for(tokenizer, word))
    return recorder


def remasking(tokenizer: SimpleSpaceTokenizer) -> Recorder:
    """Writes `6 8` into two masks; takes `8`, then `6` back without a call between; writes `6 7`."""
    recorder = Recorder()
    mask, (six, seven, eight) = tokenizer.mask_token_id, ids_of(tokenizer, "6 7 8")
    row = [tokenizer.bos_token_id, mask, mask]
    recorder.begin(torch.tensor([row]), torch.ones(1, 3, dtype=torch.bool), 1)

    def write(column: int, token: int) -> None:
        recorder.wrote(torch.tensor([0]), torch.tensor([column]), torch.tensor([token]), logits_for(tokenizer, token))

    recorder.step(torch.tensor([0]))
    write(2, eight)
    recorder.step(torch.tensor([0]))
    write(1, six)
    for column in (2, 1):
        recorder.masked(torch.tensor([[False, column == 1, column == 2]]), mask)
    recorder.step(torch.tensor([0]))
    write(1, six)
    write(2, seven)
    return recorder


def board(prompt: str) -> dict[str, Any]:
    """Two by two, one cell given: `1 .` over `. .`; the prompt says nothing of it."""
    return grid([["1", None], [None, None]], [["1", "2"], ["2", "1"]], box=(1, 2), title="Two by two")


def open_cells(prompt: str) -> dict[str, Any]:
    """Answered by the words of the open cells alone, from the last one; nothing says what is right."""
    return grid([["1", None], [None, None]], fills=[(1, 1), (1, 0), (0, 1)])


@pytest.fixture
def boards(tokenizer: SimpleSpaceTokenizer) -> Document:
    """Boards that are solved, wrong in two cells (one of them given), and without a solution."""
    runs = [
        describe_run(name, unmasking(tokenizer, answer).traces, tokenizer, view=view, truths=["1 2 2 1"])
        for name, answer, view in (
            ("solved", "1 2 2 1", board), ("wrong", "2 2 1 1", board), ("open", "1 2 2", open_cells),
        )
    ]  # fmt: skip
    return document("Boards", runs)


@pytest.fixture
def remasked(tokenizer: SimpleSpaceTokenizer) -> Document:
    """A run that takes tokens back beside one that doesn't."""
    runs = [
        describe_run("remasking", remasking(tokenizer).traces, tokenizer),
        describe_run("once", infilling(tokenizer).traces, tokenizer, prompts=[""]),
    ]
    return document("Taken back", runs)


@pytest.fixture
def doc(tokenizer: SimpleSpaceTokenizer) -> Document:
    """A title and a prompt that would break out of the page if it let them."""
    written = {
        "ilm": inserting(tokenizer).traces,
        "mlm": unmasking(tokenizer, ANSWER).traces,
        "mlm, wrong": unmasking(tokenizer, "0 3 3 2").traces,
    }
    runs = [
        describe_run(name, traces, tokenizer, view=draw_graph, truths=[ANSWER], prompts=[PROMPT])
        for name, traces in written.items()
    ]
    runs.append(describe_run("text </script><b>", infilling(tokenizer).traces, tokenizer))
    return document("Traces </title><script>alert(1)</script>", runs)
