"""Tokenizers of transformers get every special token, and an empty vocabulary is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import xlm.datamodule
from xlm.data.pretrained_tokenizers import BertTokenizerFast, GPT2TokenizerFast, check_vocab_size, load_auto_tokenizer
from xlm.data.tokenizers import fingerprint
from xlm.errors import DataError
from xlm.protocols import Tokenizer as TokenizerProtocol

TEXT = ["In the beginning was the word, and the word was with many others.", "0123456789 abcdefghijklmnopqrstuvwxyz"]
ROLES = ("pad", "mask", "bos", "eos", "cls", "sep", "unk")


@pytest.mark.parametrize("text", ["", "{", '{"version": "1.0"}', "[1]"])
def test_files_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(DataError, match=f"The tokenizer '{tmp_path}' cannot be read: "):
        load_auto_tokenizer(str(tmp_path))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Vocabulary and merges of a small byte-level BPE, with their files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 10, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]], "folder": folder}


@pytest.fixture(scope="module")
def wordpieces() -> dict[str, int]:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "in", "the", "word", "##s", "##1"]
    return {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(200))])}


def check_complete(tokenizer: Any) -> None:
    ids = [getattr(tokenizer, f"{role}_token_id") for role in ROLES]
    assert all(isinstance(i, int) and 0 <= i < tokenizer.full_vocab_size for i in ids), ids
    assert tokenizer.full_vocab_size == len(tokenizer)
    assert len({tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.eos_token_id}) == 3
    assert isinstance(tokenizer, TokenizerProtocol)


def test_gpt2_gets_what_it_lacks(bpe: dict[str, Any]) -> None:
    tokenizer = GPT2TokenizerFast(vocab=bpe["vocab"], merges=bpe["merges"])
    check_complete(tokenizer)
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    ids = tokenizer(TEXT[0], add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == TEXT[0]
    assert tokenizer.full_vocab_size == len(bpe["vocab"]) + 4


def test_bert_keeps_its_own(wordpieces: dict[str, int]) -> None:
    tokenizer = BertTokenizerFast(vocab=wordpieces)
    check_complete(tokenizer)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.mask_token_id == 4
    assert tokenizer.full_vocab_size == len(wordpieces) + 2
    assert tokenizer.batch_decode([[5, 6, 7]], skip_special_tokens=True) == ["in the word"]


def test_names_that_transformers_ignores_are_understood(bpe: dict[str, Any]) -> None:
    folder = bpe["folder"]
    tokenizer = GPT2TokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    assert tokenizer.full_vocab_size == len(bpe["vocab"]) + 4


def test_saved_folders_load_completed(bpe: dict[str, Any], tmp_path: Path) -> None:
    from transformers import GPT2TokenizerFast as Plain

    Plain(vocab=bpe["vocab"], merges=bpe["merges"]).save_pretrained(tmp_path)
    tokenizer = load_auto_tokenizer(str(tmp_path))
    check_complete(tokenizer)
    assert fingerprint(tokenizer) == fingerprint(load_auto_tokenizer(str(tmp_path)))
    assert GPT2TokenizerFast.from_pretrained(str(tmp_path)).full_vocab_size == tokenizer.full_vocab_size
    tokenizer.add_tokens(["new"])
    assert tokenizer.full_vocab_size == len(tokenizer)


def test_an_empty_vocabulary_is_an_error(tmp_path: Path) -> None:
    from transformers import GPT2TokenizerFast as Plain

    Plain().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"has only \d+ tokens"):
        load_auto_tokenizer(str(tmp_path))
    check_vocab_size([0] * 200, "x")


def test_reachable_from_the_data_module_without_importing_transformers_first() -> None:
    assert xlm.datamodule.BertTokenizerFast is BertTokenizerFast
    assert xlm.datamodule.load_auto_tokenizer is load_auto_tokenizer
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchName'"):
        _ = xlm.datamodule.NoSuchName
