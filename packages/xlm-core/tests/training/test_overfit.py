"""The verdict of debug=overfit: when a batch counts as learnt, when to give up, and what the message says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xlm.errors import NotLearntError
from xlm.training.overfit import Check, OverfitVerdict, _halves


def verdict(*checks: Check, first: float = 4.0, patience: int = 100, compare: bool = True) -> OverfitVerdict:
    found = OverfitVerdict(patience)
    found.first_loss, found.can_compare, found.num_parameters = first, compare, 7
    found.checks += checks
    return found


def test_all_predictions_must_be_right(tmp_path: Path) -> None:
    learnt = verdict(Check(50, 0.3, 0.94), Check(100, 0.2, 1.0))
    assert learnt.is_learnt
    assert learnt.conclude(tmp_path) == "Learnt by heart: exact match 1.00 on the one batch after 100 steps."
    # A low loss is not enough where there are predictions, also before texts are generated.
    assert not verdict(Check(50, 0.0, 0.99)).is_learnt
    assert not verdict(Check(50, 0.0, None)).is_learnt
    assert not verdict().is_learnt


def test_a_model_without_predictions_is_judged_by_its_loss(tmp_path: Path) -> None:
    learnt = verdict(Check(100, 0.19, None), compare=False)
    assert "the loss on the one batch fell from 4.00 to 0.19 after 100 steps" in learnt.conclude(tmp_path)
    assert not verdict(Check(100, 0.21, None), compare=False).is_learnt
    # A loss that can be negative has no share to fall to.
    assert not verdict(Check(100, -3.0, None), first=-1.0, compare=False).is_learnt


def stands_still(*checks: tuple[int, float, float]) -> bool:
    return verdict(*(Check(*check) for check in checks))._stands_still()


def test_a_run_ends_when_nothing_improves() -> None:
    assert not stands_still((50, 1.0, 0.5), (100, 1.0, 0.5))  # not yet long enough
    assert stands_still((50, 1.0, 0.5), (100, 1.0, 0.5), (150, 1.0, 0.5))
    assert not stands_still((50, 1.0, 0.5), (100, 1.0, 0.6), (150, 1.0, 0.5))  # a better prediction
    assert not stands_still((50, 1.0, 0.5), (100, 0.9, 0.5), (150, 1.0, 0.5))  # a lower loss
    assert stands_still((50, 1.0, 0.5), (100, 0.995, 0.5), (150, 0.995, 0.5))  # by less than a percent
    assert stands_still((50, 0.1, 0.0), (100, 0.05, 0.0), (150, 0.01, 0.0))  # below what a learnt batch has


def causes(found: OverfitVerdict, folder: Path) -> str:
    with pytest.raises(NotLearntError) as refused:
        found.conclude(folder)
    return str(refused.value)


def test_what_to_look_at(tmp_path: Path) -> None:
    flat = causes(verdict(Check(50, 4.0, 0.0), Check(150, 3.9, 0.0)), tmp_path)
    first = (
        "Not learnt: exact match 0.00 on the one batch, loss stands at 3.9 after 150 steps (first step: 4). Look at:"
    )
    assert flat.splitlines()[0] == first
    assert "which hardly fell" in flat
    assert "the predictor" not in flat
    wrong = causes(verdict(Check(50, 0.1, 0.0), Check(150, 0.1, 0.0)), tmp_path)
    assert "the predictor, as the loss fell" in wrong
    assert "nothing improved in the last 100 steps" in wrong
    short = causes(verdict(Check(4, 3.9, 0.0)), tmp_path)
    assert "trainer.max_steps: the run ended before" in short
    assert "after 4 steps" in short
    assert causes(verdict(), tmp_path) == "Not learnt: the run ended before the first check."


def test_weights_without_a_gradient_are_named(tmp_path: Path) -> None:
    found = verdict(Check(50, 4.0, 0.0))
    found.no_gradient = [f"model.layers.{i}.weight" for i in range(5)]
    text = causes(found, tmp_path)
    assert "5 of 7 weights without a gradient (model.layers.0.weight, model.layers.1.weight" in text
    assert "and 2 more)" in text


def test_a_wrong_prediction_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "predictions/val/prediction"
    folder.mkdir(parents=True)
    rows = [{"prediction": "1 2", "truth": "1 2"}, {"prediction": "3 4", "truth": "3 5"}]
    (folder / "step_00000050.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = causes(verdict(Check(50, 1, 0.5)), tmp_path)
    assert f"{folder}/step_00000050.jsonl, such as '3 4' instead of '3 5'" in text


def test_a_loss_without_a_gradient_is_a_verdict_too() -> None:
    found = OverfitVerdict()
    found.on_before_backward(None, None, torch.ones((), requires_grad=True) * 2)  # type: ignore[arg-type]
    with pytest.raises(NotLearntError, match="Not learnt: the loss does not depend on any weight"):
        found.on_before_backward(None, None, torch.tensor(2.0))  # type: ignore[arg-type]


class Letters:
    """A letter is a token."""

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))


def halves(*texts: str, block_size: int | None = None) -> list[tuple[str, str, bool]]:
    rows = [{"input_ids": [ord(letter) for letter in text]} for text in texts]
    loader = type("Loader", (), {"__len__": lambda _: 1, "rows_of_batch": lambda _, number: rows})()
    datamodule = SimpleNamespace(first_loader=lambda split, role: (0, "lm"))
    trainer: Any = SimpleNamespace(datamodule=datamodule, val_dataloaders=[loader])
    module: Any = SimpleNamespace(tokenizer=Letters(), config={"block_size": block_size})
    return [(text.given, text.rest, text.is_cut) for text in _halves(trainer, module)]


def test_texts_are_divided_where_their_beginning_is_unlike_all_others() -> None:
    assert halves("abcd", "wxyz", "wxyz") == [("ab", "cd", False), ("wx", "yz", False)]
    assert halves("the cat sat", "the cat ran") == [("the cat s", "at", False), ("the cat r", "an", False)]
    # Nothing follows, or what follows is not determined.
    assert halves("a", "abc", "abcde") == [("abcd", "e", False)]
    assert halves("abcdefgh", block_size=6) == [("ab", "cd", True)]
