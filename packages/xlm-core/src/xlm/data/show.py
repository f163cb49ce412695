"""Shows a batch on the screen: shapes, and the first row as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xlm.protocols import Tokenizer


def print_batch(batch: Mapping[str, Any], split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Print every field's shape, or its value if it is no tensor; then the first row's input and target as tokens.

    Targets that are not to be predicted (negative ids) are left out. For `datamodule.print_batch_fn`.
    """
    fields = (f"{name} {tuple(v.shape) if isinstance(v, Tensor) else v}" for name, v in batch.items())
    print(f"{split}/{dataloader_name}: " + ", ".join(fields))
    print("  input  ", tokenizer.decode(batch["input_ids"][0].tolist()))
    if "target_ids" in batch:
        print("  target ", tokenizer.decode([token for token in batch["target_ids"][0].tolist() if token >= 0]))
