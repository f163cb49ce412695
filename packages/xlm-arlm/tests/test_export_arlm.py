"""What is exported computes the same in transformers: logits with padding, greedy texts, any largest frequency."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

from arlm.model_arlm import RotaryARLM
from arlm.predictor_arlm import ARLMPredictor
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.training.weights import save_for_transformers


def network(num_embeddings: int, **options: object) -> RotaryARLM:
    torch.manual_seed(0)
    model = RotaryARLM(num_embeddings, d_model=16, num_layers=2, nhead=2, dim_feedforward=24, dropout=0.1, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"rotary_base": 100.0, "rotary_max_frequency": torch.pi}, {"activation": "relu", "layer_norm_eps": 1e-2}],
)
def test_the_same_logits_after_a_round_trip(
    tmp_path: Path, tokenizer: SimpleSpaceTokenizer, options: dict[str, object]
) -> None:
    model = network(len(tokenizer), **options)
    save_for_transformers(tmp_path / "there", model, tokenizer)
    there = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    assert isinstance(there, GPTNeoXForCausalLM)
    assert there.config.eos_token_id == tokenizer.eos_token_id
    ids = torch.randint(len(tokenizer), (3, 11))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :4] = False
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    found = there(ids, attention_mask=mask.long(), position_ids=positions).logits
    assert torch.allclose(found[mask], model(ids, mask)[mask], atol=2e-5, rtol=1e-4)
    # It is no accident: another network gives others.
    assert not torch.allclose(found[mask], network(len(tokenizer))(ids, mask)[mask], atol=0.1) or not options


def test_the_same_greedy_texts(tokenizer: SimpleSpaceTokenizer) -> None:
    model = network(len(tokenizer))
    there = model.for_transformers()
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    never = [pad, tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id]
    predictor = ARLMPredictor(tokenizer, None, model, max_length=9)
    lengths = set()
    for _ in range(8):
        prompt = torch.randint(7, len(tokenizer), (1, 5))
        mask = torch.ones_like(prompt)
        theirs = there.generate(
            prompt, attention_mask=mask, max_new_tokens=9, do_sample=False, suppress_tokens=never, eos_token_id=eos,
            pad_token_id=pad,
        )  # fmt: skip
        ours = predictor.predict({"input_ids": prompt, "attention_mask": mask})["ids"]
        assert ours.tolist() == theirs.tolist()
        lengths.add(ours.shape[1])
    assert max(lengths) > 7
