"""The template is a model like any other: its batches, loss and predictions. Its runs are in test_scaffolded.py."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from xlm.data.collate import pad_ids
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import DataError
from xlm.scaffold.templates import TEMPLATE

EXAMPLES = [{"prompt_ids": [7, 8, 9], "input_ids": [8, 10]}, {"prompt_ids": [11], "input_ids": [7, 7, 12, 9]}]
PAD, BOS, EOS, NONE = 0, 4, 3, -100


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TEMPLATE.parent)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "template_model"]:
        del sys.modules[name]


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(vocab_size=9)


@pytest.fixture
def network(tokenizer: SimpleSpaceTokenizer) -> Any:
    from template_model.model_template_model import TemplateModelNetwork

    torch.manual_seed(0)
    network = TemplateModelNetwork(len(tokenizer), d_model=16, num_layers=2, nhead=2).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture
def collator(tokenizer: SimpleSpaceTokenizer) -> Callable[..., Any]:
    def make(kind: str = "", **options: Any) -> Any:
        from template_model import datamodule_template_model

        return getattr(datamodule_template_model, f"TemplateModel{kind}Collator")(tokenizer, **options)

    return make


def test_the_batch_of_a_prompt_and_its_answer(collator: Callable[..., Any]) -> None:
    batch = collator("Seq2Seq", block_size=6, input_block_size=3)(EXAMPLES)
    assert batch["input_ids"].tolist() == [
        [7, 8, 9, BOS, 8, 10, EOS, PAD, PAD],
        [PAD, PAD, 11, BOS, 7, 7, 12, 9, EOS],
    ]
    assert batch["target_ids"].tolist() == [
        [NONE, NONE, NONE, 8, 10, EOS, NONE, NONE, NONE],
        [NONE, NONE, NONE, 7, 7, 12, 9, EOS, NONE],
    ]
    assert torch.equal(batch["attention_mask"], batch["input_ids"] != PAD)


def test_the_batch_of_a_text(collator: Callable[..., Any]) -> None:
    batch = collator(block_size=5)([{"input_ids": [7]}, {"input_ids": [8, 9, 10, 11, 12]}])
    assert batch["input_ids"].tolist() == [[BOS, 7, EOS, PAD, PAD], [BOS, 8, 9, 10, 11]]
    assert batch["target_ids"].tolist() == [[7, EOS, NONE, NONE, NONE], [8, 9, 10, 11, NONE]]


def test_the_batch_to_be_answered(collator: Callable[..., Any]) -> None:
    batch = collator("Seq2SeqPred", block_size=6, input_block_size=3)(EXAMPLES)
    assert batch["input_ids"].tolist() == [[7, 8, 9, BOS], [PAD, PAD, 11, BOS]]
    assert batch["target_ids"].tolist() == [[8, 10, EOS, PAD, PAD], [7, 7, 12, 9, EOS]]
    nothing = collator("Seq2SeqPred", input_block_size=3)([{"input_ids": []}, {"input_ids": []}])
    assert nothing["input_ids"].tolist() == [[BOS], [BOS]]
    assert "target_ids" not in nothing


@pytest.mark.parametrize("limits", [{"block_size": 5}, {"input_block_size": 2}])
def test_what_does_not_fit_is_an_error(collator: Callable[..., Any], limits: dict[str, int]) -> None:
    with pytest.raises(DataError, match="does not fit"):
        collator("Seq2Seq", **limits)(EXAMPLES)


def test_collators_pickle(collator: Callable[..., Any]) -> None:
    for kind in ("", "Seq2Seq", "Seq2SeqPred"):
        again = pickle.loads(pickle.dumps(collator(kind, block_size=9)))
        assert (type(again).__name__, again.block_size) == (f"TemplateModel{kind}Collator", 9)


def test_the_loss_is_the_mean_of_what_it_says(network: Any, collator: Callable[..., Any]) -> None:
    from template_model.loss_template_model import TemplateModelLoss

    loss = TemplateModelLoss(network)
    batch = collator("Seq2Seq")(EXAMPLES)
    with torch.no_grad():
        found, nll = loss(batch), loss.token_nll(batch)
    assert found["num_loss_terms"] == len(nll) == 3 + 5
    assert found["loss"] == pytest.approx(nll.mean().item())
    # The first target again, by hand: the answer's first token after [7, 8, 9, BOS].
    with torch.no_grad():
        logits = network(torch.tensor([[7, 8, 9, BOS]]), torch.ones(1, 4, dtype=torch.bool))[0, -1]
    assert nll[0].item() == pytest.approx(-math.log(logits.softmax(-1)[8].item()), abs=1e-6)


def test_later_tokens_and_padding_change_nothing(network: Any) -> None:
    ids = torch.tensor([[7, 8, 9, 10]])
    logits = network(ids, torch.ones_like(ids, dtype=torch.bool))
    other = network(torch.tensor([[7, 8, 12, 7]]), torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(logits[:, :2], other[:, :2])
    for side, columns in (("left", slice(2, None)), ("right", slice(None, 4))):
        padded = pad_ids(ids.tolist(), PAD, length=6, side=side)  # type: ignore[arg-type]
        torch.testing.assert_close(network(padded.ids, padded.mask)[:, columns], logits)


@pytest.fixture
def predictor(network: Any, tokenizer: SimpleSpaceTokenizer) -> Any:
    from template_model.predictor_template_model import TemplateModelPredictor

    return TemplateModelPredictor(tokenizer, model=network, max_length=5)


def test_answers_keep_the_prompt_the_limit_and_their_end(predictor: Any, collator: Callable[..., Any]) -> None:
    batch = collator("Seq2SeqPred")(EXAMPLES)
    preds = predictor.predict(batch)
    start = preds["output_start_idx"]
    assert torch.equal(preds["ids"][:, :start], batch["input_ids"])
    assert preds["ids"].shape[1] - start == int(preds["steps_taken"].max()) <= 5
    for row, mask, steps in zip(preds["ids"], preds["attention_mask"], preds["steps_taken"].tolist(), strict=True):
        answer = row[start:].tolist()
        assert not {PAD, BOS} & set(answer[:steps])
        assert EOS not in answer[: steps - 1]
        assert set(answer[steps:]) <= {PAD}
        assert int(mask[start:].sum()) == steps


def test_a_row_ends_at_eos_while_the_others_go_on(predictor: Any, collator: Callable[..., Any]) -> None:
    def model(ids: Tensor, mask: Tensor) -> Tensor:
        """Says 9 until three tokens stand behind BOS; a row that begins with padding ends at once."""
        logits = torch.zeros(*ids.shape, 16)
        ends = (ids[:, 0] == PAD) | (ids.shape[1] == 6)
        logits[:, -1, EOS], logits[:, -1, 9] = ends.float() * 2, 1.0
        logits[:, -1, BOS] = 5.0  # never written
        return logits

    predictor.model = model
    preds = predictor.predict(collator("Seq2SeqPred")(EXAMPLES))
    assert preds["ids"][:, 4:].tolist() == [[9, 9, EOS], [EOS, PAD, PAD]]
    assert preds["steps_taken"].tolist() == [3, 1]
    rows = json.loads(json.dumps(predictor.to_dict(collator("Seq2SeqPred")(EXAMPLES), preds)))
    assert rows[0] == {"prompt": "0 1 2", "prediction": "2 2", "steps_taken": 3, "truth": "1 3"}


def test_what_is_recorded_is_what_is_written(predictor: Any, collator: Callable[..., Any]) -> None:
    batch = collator("Seq2SeqPred")(EXAMPLES)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["steps_taken"].tolist()
    assert [trace.truth for trace in recorder.traces] == [[8, 10, EOS], [7, 7, 12, 9, EOS]]
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()
        assert all(0 < change["p"] <= 1 for step in trace.steps for change in step["changes"])


def test_a_prompt_is_answered_alone_as_among_others(predictor: Any) -> None:
    prompts = ["0 1 2", "4", ""]
    assert predictor.generate(prompts) == [predictor.generate([prompt])[0] for prompt in prompts]


def test_the_metrics_say_whether_answers_are_right(collator: Callable[..., Any], tokenizer: Any) -> None:
    from template_model import metrics_template_model as metrics

    batch = collator("Seq2SeqPred")(EXAMPLES)
    outputs = {"ids": torch.cat([batch["input_ids"], batch["target_ids"]], dim=1), "output_start_idx": 4}
    for update_fn in (metrics.exact_match_update_fn, metrics.token_accuracy_update_fn):
        arguments = update_fn(batch, outputs, tokenizer, dataloader_name="prediction")
        assert torch.equal(arguments["pred"], arguments["target"])
