"""A tokenizer and judges of a few thousand weights, made here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from xlm.evaluation.text_quality import Scorer, load_scorer

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far")
SPECIAL = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token a word; specials first, in the order of the arguments."""
    names = [*dict.fromkeys([*special.values(), *WORDS])]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(**SPECIAL)


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
            bos_token_id=1, eos_token_id=2,
        ))  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def judge(judge_folder: Path) -> Scorer:
    return load_scorer(str(judge_folder))


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    size = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "initializer_range": 0.5,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
