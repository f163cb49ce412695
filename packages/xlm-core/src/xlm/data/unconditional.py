"""Examples without content, each of which asks a model for one sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class EmptyExamples:
    """`num_examples` times `{"input_ids": []}`."""

    def __init__(self, tokenizer: Any, num_examples: int) -> None:
        self.num_examples = num_examples

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"input_ids": []} for _ in range(self.num_examples))
