"""Tokenizers of transformers get every special token, and an empty vocabulary is detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

import xlm.datamodule
from xlm.data.pretrained_tokenizers import BertTokenizerFast, GPT2TokenizerFast, check_vocabulary, load_auto_tokenizer
from xlm.data.tokenizers import check_mask_token, fingerprint
from xlm.errors import ConfigError, DataError
from xlm.masked.collate import MasksInPlace
from xlm.protocols import Tokenizer as TokenizerProtocol

TEXT = ["In the beginning was the word, and the word was with many others.", "0123456789 abcdefghijklmnopqrstuvwxyz"]
# Of `SentencePieceProcessor.encode` in sentencepiece 0.2.3, for the models below.
SENTENCEPIECE_IDS = {
    "": [], "abc": [9], "abc  cab": [9, 3, 6, 4, 5], " bca": [3, 8, 4], "abcd dd": [9, 0, 3, 0], "a\nb": [7, 0, 5],
}  # fmt: skip
ROLES = ("pad", "mask", "bos", "eos", "cls", "sep", "unk")


@pytest.mark.parametrize("text", ["", "{", '{"version": "1.0"}', "[1]"])
def test_files_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(DataError, match=f"The tokenizer '{tmp_path}' cannot be read: "):
        load_auto_tokenizer(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot be read: it has no tokenizer files, such as tokenizer\.json"):
        load_auto_tokenizer(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("tokenizer.json", "{", "cannot be read: EOF"),
        ("spiece.model", "no such thing", "cannot be read: it is not a SentencePiece model"),
        ("spiece.model", "", "only SentencePiece models of the kinds unigram and bpe can be read"),
        ("missing.model", None, "the file does not exist"),
        ("missing.json", None, "the file does not exist"),
    ],
)
def test_single_files_that_cannot_be_read(tmp_path: Path, file: str, text: str | None, error: str) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=error):
        load_auto_tokenizer(str(tmp_path / file))


@pytest.mark.parametrize("kind", [1, 2], ids=["unigram", "bpe"])
def test_a_sentencepiece_model(tmp_path: Path, kind: int) -> None:
    proto = import_protobuf().ModelProto()
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "c", "\u2581a", "bc", "\u2581abc"]
    for number, piece in enumerate(pieces):
        # 2 is the unknown piece, 3 are control pieces, 1 are those of texts.
        proto.pieces.add(piece=piece, score=-float(number), type=2 if number == 0 else 3 if number < 3 else 1)
    proto.trainer_spec.model_type = kind
    proto.normalizer_spec.name = "identity"
    (tmp_path / "m.model").write_bytes(proto.SerializeToString())
    tokenizer = load_auto_tokenizer(str(tmp_path / "m.model"))
    check_complete(tokenizer)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.added_special_tokens == ["[MASK]", "[PAD]", "[CLS]", "[SEP]"]
    for text, ids in SENTENCEPIECE_IDS.items():
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text
    assert tokenizer.decode(tokenizer("abc  cab", add_special_tokens=False)["input_ids"]) == "abc cab"


def test_a_tokenizer_json_keeps_its_special_tokens_and_nothing_is_added_twice(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "<mask>": 3, "A": 4, "T": 5}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.save(str(tmp_path / "dna.json"))
    tokenizer = load_auto_tokenizer(str(tmp_path / "dna.json"))
    check_complete(tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1, 3)
    assert tokenizer.added_special_tokens == ["[PAD]", "[CLS]", "[SEP]"]
    assert tokenizer("ATTA", add_special_tokens=False)["input_ids"] == [4, 5, 5, 4]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_auto_tokenizer(str(tmp_path / "saved"))
    assert fingerprint(again) == fingerprint(tokenizer)
    assert not hasattr(again, "added_special_tokens")


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
    with pytest.raises(DataError, match=r"only special tokens \(1\): transformers did not read its vocabulary"):
        load_auto_tokenizer(str(tmp_path))
    for name, text in (("vocab.json", json.dumps({str(i): i for i in range(300)})), ("vocab.txt", "a\n" * 300)):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=r"only \d of the 300 tokens in its files"):
            check_vocabulary(Plain(), str(tmp_path))
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (models.WordLevel({"A": 0, "C": 1, "G": 2, "T": 3, "[UNK]": 4}, unk_token="[UNK]"), "GATTACA"),
        (models.BPE({letter: n for n, letter in enumerate("ACGT")}, []), "GATTACA"),
        (models.WordPiece({"[UNK]": 0, "C": 1, "##C": 2, "##=": 3, "##O": 4}, unk_token="[UNK]"), "CC=O"),
        (models.Unigram([("[UNK]", 0.0), ("M", -1.0), ("K", -1.0)], unk_id=0), "MKMK"),
    ],
    ids=["DNA", "DNA as BPE", "SMILES", "proteins"],
)
def test_small_vocabularies_are_as_good_as_others(tmp_path: Path, model: Any, text: str) -> None:
    backend = Tokenizer(model)
    if isinstance(model, models.WordLevel):
        backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(tmp_path)
    tokenizer = load_auto_tokenizer(str(tmp_path))
    check_complete(tokenizer)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(text)
    check_mask_token(tokenizer)


def test_a_mask_token_that_is_another_is_named(bpe: dict[str, Any]) -> None:
    tokenizer = GPT2TokenizerFast(vocab=bpe["vocab"], merges=bpe["merges"], mask_token="<|endoftext|>")
    with pytest.raises(ConfigError, match=r"mask, eos, bos and unk tokens are all '<\|endoftext\|>'") as caught:
        check_mask_token(tokenizer)
    assert caught.value.key == "global_components.tokenizer"
    tokenizer = GPT2TokenizerFast(vocab=bpe["vocab"], merges=bpe["merges"], mask_token="[PAD]", pad_token="[PAD]")
    with pytest.raises(ConfigError, match=r"mask token and pad token are both '\[PAD\]'"):
        MasksInPlace(tokenizer)
    with pytest.raises(ConfigError, match="This model needs a mask token, but the tokenizer has none"):
        check_mask_token(object())


def test_reachable_from_the_data_module_without_importing_transformers_first() -> None:
    assert xlm.datamodule.BertTokenizerFast is BertTokenizerFast
    assert xlm.datamodule.load_auto_tokenizer is load_auto_tokenizer
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchName'"):
        _ = xlm.datamodule.NoSuchName
