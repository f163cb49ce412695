"""Networks of transformers as ARLM: their own logits, with and without cache, padded or alone; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from arlm.datamodule_arlm import ARLMSeq2SeqCollator
from arlm.hf_arlm import HFCausalLM
from arlm.loss_arlm import ARLMLoss
from arlm.predictor_arlm import ARLMPredictor
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import ConfigError

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip
PROMPTS = ["1 2 3 4", "5", "7 8"]


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(33)


def gpt2(**options: Any) -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, **options))


def saved(network: Any, folder: Path) -> str:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return saved(gpt2() if request.param == "gpt2" else LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path / "network")


def test_its_logits_are_those_of_transformers(folder: str) -> None:
    model = HFCausalLM(40, folder, check_vocabulary=False).eval()
    ids = torch.randint(40, (2, 9))
    there = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(model(ids), there(ids).logits, atol=1e-6)
    back = model.for_transformers()
    assert torch.equal(back(ids).logits, there(ids).logits)
    assert torch.allclose(model(ids), there(ids).logits, atol=1e-6)  # still in two parts


def test_a_cache_and_padding_change_nothing(folder: str, tokenizer: SimpleSpaceTokenizer) -> None:
    model = HFCausalLM(40, folder, check_vocabulary=False).double().eval()
    texts = ARLMPredictor(tokenizer, None, model, max_length=12).generate(PROMPTS)
    assert texts == ARLMPredictor(tokenizer, None, model, max_length=12, use_cache=False).generate(PROMPTS)
    assert texts == [ARLMPredictor(tokenizer, None, model, max_length=12).generate([p])[0] for p in PROMPTS]
    assert len(set(texts)) == len(PROMPTS)


def test_a_cache_forgets(folder: str) -> None:
    model = HFCausalLM(40, folder, check_vocabulary=False).double().eval()
    ids = torch.randint(40, (2, 9))
    cache = model.new_cache(12)
    model(ids, cache=cache)
    cache.truncate(5)
    assert torch.allclose(model(ids[:, 5:], cache=cache), model(ids)[:, 5:])
    with pytest.raises(ValueError, match="KV cache is full"):
        model(ids, cache=cache)


def test_the_loss_is_its_likelihood_and_trains_it(folder: str, tokenizer: SimpleSpaceTokenizer) -> None:
    model = HFCausalLM(40, folder, check_vocabulary=False).eval()
    batch = ARLMSeq2SeqCollator(tokenizer)(
        [{"prompt_ids": [8, 9, 10], "input_ids": [11, 12]}, {"prompt_ids": [8], "input_ids": [13]}]
    )
    loss = ARLMLoss(model, tokenizer)
    found = loss.loss_fn(batch)["loss"]
    logits = model(batch["input_ids"], batch["attention_mask"])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target_ids"].flatten())
    assert torch.allclose(found, expected)
    found.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: BertLMHeadModel(BertConfig(**SIZES)), "looks at later tokens; it is no left-to-right model"),
        (
            lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=2)),
            "not a linear map of its",
        ),
        (
            lambda: BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)),
            "does not accept position_ids",
        ),
    ],
)
def test_networks_that_cannot_be_used_are_refused(tmp_path: Path, network: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HFCausalLM(40, saved(network(), tmp_path / "network"), check_vocabulary=False)


def test_rows_longer_than_its_positions(tmp_path: Path) -> None:
    model = HFCausalLM(40, saved(gpt2(), tmp_path / "network"), check_vocabulary=False)
    with pytest.raises(ConfigError, match="A row has 33 tokens, but GPT2LMHeadModel has only 32 positions"):
        model(torch.zeros(1, 33, dtype=torch.long))
    cache = model.new_cache(40)
    model(torch.zeros(1, 32, dtype=torch.long), cache=cache)
    with pytest.raises(ConfigError, match="A row has 33 tokens"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)
