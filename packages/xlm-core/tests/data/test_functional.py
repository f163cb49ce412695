"""Functions for examples that are token ids already."""

from __future__ import annotations

import pytest

from xlm.data.functional import (
    chat_to_ids,
    ids_to_example_fn,
    prompt_and_answer_to_ids,
    text_to_input_ids,
    token_ids_to_input_ids,
    token_ids_to_input_ids_and_prompt_ids,
)
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(10)


def test_token_ids_become_input_ids() -> None:
    example = {"token_ids": [1, 2, 3], "id": 7}
    assert token_ids_to_input_ids(example, tokenizer=TOKENIZER) == {"id": 7, "input_ids": [1, 2, 3]}
    assert token_ids_to_input_ids(example, TOKENIZER, block_size=2)["input_ids"] == [1, 2]
    assert example["token_ids"] == [1, 2, 3]


@pytest.mark.parametrize("answer", ["input_token_ids", "token_ids", "input_ids"])
@pytest.mark.parametrize("prompt", ["prompt_token_ids", "prompt_ids"])
def test_prompt_and_answer(answer: str, prompt: str) -> None:
    made = token_ids_to_input_ids_and_prompt_ids({answer: [1], prompt: [2, 3], "id": 7}, tokenizer=TOKENIZER)
    assert made == {"id": 7, "prompt_ids": [2, 3], "input_ids": [1]}


@pytest.mark.parametrize("example", [[1, 2], (1, 2), {"ids": [1, 2]}, {"token_ids": [1, 2], "x": 0}])
def test_ids_to_example(example: object) -> None:
    assert ids_to_example_fn(example, tokenizer=TOKENIZER) == {"input_ids": [1, 2]}


def test_text() -> None:
    assert text_to_input_ids({"text": "1 2 3"}, TOKENIZER, block_size=2)["input_ids"] == [8, 9]
    made = text_to_input_ids({"line": "1"}, TOKENIZER, text_column="line")
    assert made == {"line": "1", "input_ids": [8], "num_bytes": 1}


@pytest.mark.parametrize(("block_size", "num_bytes"), [(None, 6), (2, 6), (1, None)])
def test_bytes_are_those_of_a_whole_text(block_size: int | None, num_bytes: int | None) -> None:
    """As it was written: the é is unknown to the tokenizer, and one of two blanks is lost."""
    made = text_to_input_ids({"text": "1  é "}, TOKENIZER, block_size=block_size)
    assert made["num_bytes"] == num_bytes


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match="none of the columns token_ids, input_ids; it has: x, y"):
        token_ids_to_input_ids({"x": 1, "y": 2}, TOKENIZER)


def test_prompts_and_answers_of_text() -> None:
    row = {"doc": {"question": "1 2", "short": "3"}}
    found = prompt_and_answer_to_ids(row, TOKENIZER, prompt_column="doc.question", answer_column="doc.short")
    assert found == {"prompt_ids": TOKENIZER.encode("1 2"), "input_ids": TOKENIZER.encode("3"), "num_bytes": 1}
    with pytest.raises(DataError, match=r"the column 'prompt' is missing; it has: doc"):
        prompt_and_answer_to_ids(row, TOKENIZER)


def message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def test_conversations() -> None:
    row = {
        "messages": [message("user", "1 2"), message("assistant", "3"), message("user", "4"), message("assistant", "5")]
    }
    found = chat_to_ids(row, Lines())
    assert found == {
        "prompt_ids": ["user: 1 2", "assistant: 3", "user: 4", "assistant:"],
        "input_ids": ["5"],
        "num_bytes": 1,
    }
    templated = Lines()
    templated.chat_template = "{{ messages }}"
    assert chat_to_ids(row, templated)["prompt_ids"] == ["3 messages"]


class Lines:
    """A tokenizer with a line as token."""

    chat_template: str | None = None

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        return {"input_ids": text.split("\n")}

    def apply_chat_template(self, messages: list[object], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        assert add_generation_prompt
        return f"{len(messages)} messages"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "must be a list of at least two messages"),
        ([message("user", "a")], "must be a list of at least two messages"),
        ([message("user", "a"), {"content": "b"}], "is not an object with role and content"),
        ([message("user", None), message("assistant", "b")], "column 'content' holds null, not text"),
        ([message("user", "a"), message("user", "b")], "is of 'user', not of the assistant"),
    ],
)
def test_conversations_that_cannot_be_used(messages: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        chat_to_ids({"messages": messages}, Lines())
