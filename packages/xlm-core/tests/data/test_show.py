"""A batch on the screen."""

import pytest
import torch

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.utils.rich_utils import print_batch

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)


def test_shapes_values_and_the_first_row_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    batch = {
        "input_ids": torch.tensor([[7, TOKENIZER.mask_token_id], [9, 9]]),
        "output_start_idx": 1,
        "target_ids": torch.tensor([[-100, 8], [9, -100]]),
    }
    print_batch(batch, "val", TOKENIZER, "lm")
    assert capsys.readouterr().out.splitlines() == [
        "val/lm: input_ids (2, 2), output_start_idx 1, target_ids (2, 2)",
        "  input   0 [MASK]",
        "  target  1",
    ]


def test_a_batch_without_truth_has_no_target(capsys: pytest.CaptureFixture[str]) -> None:
    print_batch({"input_ids": torch.tensor([[7]])}, "test", TOKENIZER, "prediction")
    assert capsys.readouterr().out == "test/prediction: input_ids (1, 1)\n  input   0\n"
