"""A metric's value is a property of the examples, not of the batches they came in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.compose import load_config
from xlm.errors import BadTargetError, ConfigError
from xlm.metrics import (
    ExactMatch,
    MetricWrapper,
    TokenAccuracy,
    TokenWeightedMean,
    content_length,
    exact_match_update_fn,
    infill_token_accuracy_update_fn,
    length_loss_update_fn,
    mean_loss_update_fn,
    rows_from,
    seq2seq_exact_match_update_fn,
    seq2seq_token_accuracy_update_fn,
    steps_taken_update_fn,
    token_accuracy_update_fn,
    token_ce_update_fn,
)

PAD, EOS = 0, 3
TOKENIZER = SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS, mask_token_id=2)

answers = st.lists(st.integers(4, 6), max_size=4)
pairs = st.lists(st.tuples(answers, answers, st.booleans(), st.booleans()), min_size=1, max_size=8)


def padded(rows: Sequence[Sequence[int]], extra: int = 0) -> torch.Tensor:
    width = max(map(len, rows)) + extra
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=torch.long)


def as_batch(examples: Sequence[tuple[list[int], list[int], bool, bool]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(prediction, truth, prediction ends with EOS, rubbish after EOS) rows behind a prompt of two tokens."""
    rows = [
        [8, 9, *p, *([EOS] if ends else []), *([5] if ends and rubbish else [])] for p, _, ends, rubbish in examples
    ]
    truths = [[*t, EOS] for _, t, _, _ in examples]
    return {"target_ids": padded(truths)}, {"ids": padded(rows), "output_start_idx": 2}


@settings(deadline=None)
@given(pairs, st.data())
def test_any_split_into_batches_gives_the_exact_value(
    examples: list[tuple[list[int], list[int], bool, bool]], data: st.DataObject
) -> None:
    metrics = [
        MetricWrapper("em", ExactMatch(), seq2seq_exact_match_update_fn),
        MetricWrapper("acc", TokenAccuracy(), seq2seq_token_accuracy_update_fn),
    ]
    rest = list(examples)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        for metric in metrics:
            metric.update(*as_batch(batch), TOKENIZER)
    exact = sum(p == t for p, t, _, _ in examples) / len(examples)
    assert float(metrics[0].compute()) == exact
    num_tokens = sum(len(t) for _, t, _, _ in examples)
    right = sum(a == b for p, t, _, _ in examples for a, b in zip(p, t, strict=False))
    if num_tokens:
        assert float(metrics[1].compute()) == right / num_tokens
    else:
        assert metrics[1].compute().isnan()


def test_a_prefix_is_no_match_either_way() -> None:
    target = torch.tensor([[4, 5, 6]])
    for pred in ([[4, 5]], [[4, 5, 6, 4]], [[4, 5, 4]]):
        metric = ExactMatch()
        metric.update(torch.tensor(pred), target)
        assert metric.compute() == 0
    metric.update(torch.tensor([[4, 5, 6, 0]]), target, pred_length=torch.tensor([3]))
    assert metric.compute() == 0.5
    metric.update(torch.tensor([[4, 5, 9]]), target, torch.tensor([2]), torch.tensor([2]))
    assert metric.compute() == pytest.approx(2 / 3)


def test_a_missing_token_is_wrong_and_a_surplus_one_costs_nothing() -> None:
    metric = TokenAccuracy()
    metric.update(torch.tensor([[4, 5]]), torch.tensor([[4, 5, 6, 6]]))
    assert metric.compute() == 0.5
    metric.reset()
    metric.update(torch.tensor([[4, 5, 6]]), torch.tensor([[4]]))
    assert metric.compute() == 1


def test_masks_and_lengths_say_which_tokens_count() -> None:
    pred, target = torch.tensor([[4, 5, 6, 6]]), torch.tensor([[4, 4, 6, 6]])
    first_two = torch.tensor([[True, True, False, False]])

    def accuracy(**kwargs: torch.Tensor) -> float:
        metric = TokenAccuracy()
        metric.update(pred, target, **kwargs)
        return float(metric.compute())

    assert accuracy() == 0.75
    assert accuracy(pred_mask=first_two) == 0.5
    assert accuracy(target_mask=first_two) == 0.5
    assert accuracy(target_length=torch.tensor([2])) == 0.5
    assert accuracy(pred_length=torch.tensor([2])) == 0.25
    assert accuracy(pred_mask=first_two, target_mask=torch.ones(1, 4, dtype=torch.bool)) == 0.25


def test_lengths_end_at_eos_or_at_the_final_pads() -> None:
    ids = torch.tensor([[4, EOS, 5, EOS], [4, PAD, 5, PAD], [PAD, PAD, -100, -100], [EOS, 4, 4, 4], [4, 4, 4, 4]])
    assert content_length(ids, EOS, PAD).tolist() == [1, 3, 0, 0, 4]
    assert content_length(ids[:, :0], EOS, PAD).tolist() == [0] * 5


def test_answers_may_start_anywhere() -> None:
    ids = torch.tensor([[1, 4, 5], [1, 1, 4], [1, 1, 1]])
    assert rows_from(ids, 1, PAD).tolist() == [[4, 5], [1, 4], [1, 1]]
    assert rows_from(ids, torch.tensor([1, 2, 3]), PAD).tolist() == [[4, 5, PAD], [4, PAD, PAD], [PAD] * 3]
    assert rows_from(ids, torch.tensor(1), PAD)[:, :2].tolist() == [[4, 5], [1, 4], [1, 1]]
    assert rows_from(ids[:, :0], torch.tensor([0, 0, 0]), PAD).shape == (3, 0)
    batch = {"target_ids": torch.tensor([[4, 5, EOS], [4, EOS, PAD], [EOS, PAD, PAD]])}
    metric = MetricWrapper("em", ExactMatch(), seq2seq_exact_match_update_fn)
    metric.update(batch, {"ids": ids, "output_start_idx": torch.tensor([1, 2, 3])}, TOKENIZER)
    assert metric.compute() == 1


def test_whole_rows_without_a_start() -> None:
    batch, out = {"target_ids": torch.tensor([[4, 5, EOS]])}, {"ids": torch.tensor([[4, 6, EOS, 9]])}
    for update_fn, metric, value in (
        (exact_match_update_fn, ExactMatch(), 0.0),
        (token_accuracy_update_fn, TokenAccuracy(), 0.5),
    ):
        wrapper = MetricWrapper("m", metric, update_fn)
        wrapper.update(batch, out, TOKENIZER)
        assert wrapper.compute() == value


@settings(deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.data())
def test_the_mean_loss_is_the_corpus_mean(losses: list[float], data: st.DataObject) -> None:
    wrapper = MetricWrapper("loss", TokenWeightedMean(), mean_loss_update_fn)
    rest = losses
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        mean = torch.tensor(batch, dtype=torch.float64).mean()
        wrapper.update({}, {"loss": mean, "num_loss_terms": data.draw(st.sampled_from([size, torch.tensor(size)]))})
    assert float(wrapper.compute()) == pytest.approx(sum(losses) / len(losses))


def test_without_a_number_of_terms_rows_are_counted() -> None:
    wrapper = MetricWrapper("loss", TokenWeightedMean(), mean_loss_update_fn)
    wrapper.update({"input_ids": torch.zeros(3, 2)}, {"loss": torch.tensor(1.0, requires_grad=True)})
    wrapper.update({"name": "x", "input_ids": torch.zeros(1, 2)}, {"loss": 5.0})
    assert float(wrapper.compute()) == 2.0
    with pytest.raises(ConfigError, match="'num_loss_terms'"):
        wrapper.update({}, {"loss": 1.0})


def test_a_batch_without_terms_counts_for_nothing_even_if_its_mean_is_nan() -> None:
    metric = TokenWeightedMean()
    metric.update(torch.tensor(torch.nan), 0)
    metric.update(2.0, 3)
    assert metric.compute() == 2.0


def test_millions_of_terms_keep_their_digits() -> None:
    metric = TokenWeightedMean()
    for _ in range(1000):
        metric.update(torch.tensor(1.1), 2**20)
    assert float(metric.compute()) == pytest.approx(float(torch.tensor(1.1)), rel=1e-14)


def test_steps_and_parts_of_the_loss() -> None:
    steps = MetricWrapper("steps", TokenWeightedMean(), steps_taken_update_fn)
    steps.update({}, {"steps_taken": torch.tensor([1, 2, 6])})
    steps.update({"input_ids": torch.zeros(3, 1)}, {"steps_taken": 5})
    assert float(steps.compute()) == 4.0
    for key, update_fn in (("length_loss", length_loss_update_fn), ("token_ce", token_ce_update_fn)):
        wrapper = MetricWrapper(key, TokenWeightedMean(), update_fn)
        wrapper.update({}, {key: torch.tensor([1.0, 3.0])})
        wrapper.update({"input_ids": torch.zeros(2, 1)}, {key: 4.0})
        assert float(wrapper.compute()) == 3.0


def test_a_missing_key_is_named_with_what_there_is() -> None:
    wrapper = MetricWrapper("em", ExactMatch(), "xlm.metrics.seq2seq_exact_match_update_fn", prefix="val/lm")
    with pytest.raises(ConfigError) as caught:
        wrapper.update({"input_ids": 1, "target_ids": 2}, {"loss": 1, "nll": 2}, TOKENIZER)
    first, second, third = str(caught.value).splitlines()
    assert first == "Metric 'val/lm/em' needs 'output_start_idx', which is missing."
    assert second == "The batch has: input_ids, target_ids. The outputs have: loss, nll."
    assert "another dataloader" in third


def test_update_functions_come_by_name_and_get_all_arguments() -> None:
    with pytest.raises(BadTargetError, match=r"xlm\.metrics\.no_such_fn"):
        MetricWrapper("m", ExactMatch(), "xlm.metrics.no_such_fn")
    seen: dict[str, Any] = {}

    def update_fn(batch: Any, loss_dict: Any, tokenizer: Any, **extra: Any) -> dict[str, Any]:
        seen.update(batch=batch, loss_dict=loss_dict, tokenizer=tokenizer, **extra)
        return {"value": 3.0}

    wrapper = MetricWrapper("m", torchmetrics.MeanMetric(), update_fn)
    wrapper.update({"a": 1}, {"b": 2}, TOKENIZER, stage="val")
    assert seen == {"batch": {"a": 1}, "loss_dict": {"b": 2}, "tokenizer": TOKENIZER, "stage": "val"}
    assert wrapper.compute() == 3.0
    wrapper.reset()
    assert not wrapper.metric.update_called


def test_names() -> None:
    wrapper = MetricWrapper("m", ExactMatch(), exact_match_update_fn)
    assert [wrapper.full_name(), wrapper.full_name("val/lm")] == ["m", "val/lm/m"]
    assert MetricWrapper("m", ExactMatch(), exact_match_update_fn, "own").full_name("val/lm") == "own/m"


def test_states_keep_their_type_whatever_the_module_is_cast_to() -> None:
    wrapper = MetricWrapper("m", TokenWeightedMean(), mean_loss_update_fn).half()
    assert wrapper.metric.weighted_sum.dtype == torch.float64
    assert MetricWrapper("m", ExactMatch(), exact_match_update_fn).bfloat16().metric.total.dtype == torch.long


def test_a_device_without_float64_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.metrics.sampling_dtype", lambda device: torch.float32)
    metric = TokenWeightedMean().to("cpu")
    assert metric.weighted_sum.dtype == torch.float32
    metric.update(2.0, 3)
    metric.reset()
    metric.update(4.0, 3)
    assert metric.compute() == 4.0
    assert metric.weighted_sum.dtype == torch.float32


METRIC_NAMES = [
    "accumulated_loss",
    "exact_match",
    "token_accuracy",
    "seq2seq_exact_match",
    "seq2seq_token_accuracy",
    "seq2seq_length_loss",
    "seq2seq_token_ce",
    "steps_taken",
]


@pytest.mark.parametrize("name", METRIC_NAMES)
@pytest.mark.usefixtures("fresh_process")
def test_every_config_file_composes_by_its_documented_entry(name: str) -> None:
    entry = f"+metrics@reported_metrics.predict.lm.{name}={name}"
    models = {"XLM_MODELS_PATH": str(Path(__file__).parent / "models")}
    cfg = load_config(["experiment=star_easy", "model_type=bigram", "model=bigram", entry], environ=models)
    wrapper = instantiate(cfg.reported_metrics.predict.lm[name])
    assert isinstance(wrapper, MetricWrapper)
    assert wrapper.name == name


def test_only_the_tokens_of_slots_count_in_an_infilling() -> None:
    mask = TOKENIZER.mask_token_id
    given = [[8, 5, mask, mask, 6, EOS], [8, mask, EOS]]
    filled = [[8, 5, 5, 6, 6, EOS], [8, 5, EOS]]
    truth = [[5, 5, 5, 6, EOS], [5, EOS]]  # the first slot of the first row and the only one of the second are right
    batch = {"input_ids": padded(given, extra=1), "target_ids": padded(truth)}
    metric = MetricWrapper("acc", TokenAccuracy(), infill_token_accuracy_update_fn)
    metric.update(batch, {"ids": padded(filled, extra=1), "output_start_idx": 1}, TOKENIZER)
    assert (int(metric.metric.correct), int(metric.metric.total)) == (2, 3)  # type: ignore[arg-type]
