"""BERT-like networks as MLM: their own logits, padding and vocabulary, and mistakes in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from mlm.datamodule_mlm import MLMSeq2SeqCollator
from mlm.hf_mlm import HFMaskedLM
from mlm.loss_mlm import MLMLoss
from mlm.predictor_mlm import MLMPredictor
from xlm.data.pretrained_tokenizers import load_auto_tokenizer
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import ConfigError
from xlm.training.weights import save_for_transformers

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LENGTH = {"max_position_embeddings": 32}
NETWORKS: dict[str, Any] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES, **LENGTH)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES, max_position_embeddings=34)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, **LENGTH)
    ),
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(**SIZES, embedding_size=8, **LENGTH)),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    ),
}


def saved(network: Any, folder: Path) -> str:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def words() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(33)


@pytest.fixture(params=list(NETWORKS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return saved(NETWORKS[request.param](), tmp_path / "network")


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return saved(NETWORKS["bert"](), tmp_path / "network")


def test_its_logits_are_those_of_transformers_and_stay_so(folder: str, tmp_path: Path) -> None:
    model = HFMaskedLM(40, folder, check_vocabulary=False).eval()
    ids = torch.randint(5, 40, (2, 9))
    there = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(model(ids), there(ids).logits, atol=1e-5)
    save_for_transformers(tmp_path / "again", model, SimpleSpaceTokenizer.for_numbers(33))
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids).logits, there(ids).logits)


def test_padding_changes_nothing(folder: str) -> None:
    model = HFMaskedLM(40, folder, check_vocabulary=False).double().eval()
    ids = torch.randint(5, 40, (1, 6))
    pads = torch.full((1, 3), 0)
    mask = torch.tensor([[False] * 3 + [True] * 6 + [False] * 3])
    found = model(torch.cat([pads, ids, pads], 1), mask)[:, 3:9]
    assert torch.allclose(found, model(ids))


def test_a_folder_of_its_own_needs_no_other(folder: str, tmp_path: Path) -> None:
    model = HFMaskedLM(43, folder, check_vocabulary=False).eval()
    model.save_pretrained(tmp_path / "mine", config=model.standalone_arguments())
    back = HFMaskedLM.from_pretrained(tmp_path / "mine")
    ids = torch.randint(5, 43, (2, 9))
    assert torch.equal(back(ids), model(ids))
    assert folder not in (tmp_path / "mine/config.json").read_text()


def test_loss_and_sampling(bert: str, words: SimpleSpaceTokenizer) -> None:
    model = HFMaskedLM(40, bert, check_vocabulary=False).eval()
    examples = [
        {"prompt_ids": [8, 9, 10], "input_ids": [11, 12], "noise_seed": 1},
        {"prompt_ids": [8], "input_ids": [13], "noise_seed": 2},
    ]
    batch = MLMSeq2SeqCollator(words, block_size=5)(examples)  # type: ignore[arg-type]
    loss = MLMLoss(model, words).loss_fn(batch)["loss"]
    logits = model(batch["input_ids"], batch["attention_mask"])
    logits[..., words.mask_token_id] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target_ids"].flatten())
    assert torch.allclose(loss, expected)
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "pooler" not in name)
    with torch.no_grad():
        model.head.bias[: words.full_vocab_size - words.vocab_size] = -100.0  # so that what it writes can be read
    predictor = MLMPredictor(words, None, model, temperature=0.0, confidence="top_prob", block_size=6)
    texts = predictor.generate(["1 2 3", "4"])
    assert texts == [predictor.generate([prompt])[0] for prompt in ("1 2 3", "4")]
    filled = predictor.generate(["3 [MASK] 5"])[0].split()
    assert (len(filled), filled[0], filled[2]) == (3, "3", "5")


def test_tied_weights_are_one(bert: str) -> None:
    model = HFMaskedLM(40, bert, check_vocabulary=False)
    assert model.output_layer.weight is model.backbone.get_input_embeddings().weight
    undecayed = {name for name, _ in model.get_named_params_for_no_weight_decay()}
    assert "backbone.bert.embeddings.word_embeddings.weight" in undecayed


def test_new_weights_and_values_of_its_configuration(bert: str) -> None:
    model = HFMaskedLM(27, bert, pretrained=False, overrides={"num_hidden_layers": 1, "hidden_dropout_prob": 0.0})
    assert model.output_layer.out_features == 27
    assert model.backbone.config.num_hidden_layers == 1
    model.check_tokenizer(SimpleSpaceTokenizer.for_numbers(20))  # nothing is known, so nothing can be wrong


def word_tokenizer(tokens: list[str], folder: Path) -> str:
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(115))]


def test_its_own_tokenizer_fits_and_another_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**{**SIZES, "vocab_size": 120}, **LENGTH)).save_pretrained(tmp_path / "network")
    path = word_tokenizer(TOKENS, tmp_path / "network")
    tokenizer = load_auto_tokenizer(path)
    assert len(tokenizer) == 122  # BOS and EOS are new
    model = HFMaskedLM(len(tokenizer), path)
    model.check_tokenizer(tokenizer)
    assert model.output_layer.out_features == 122
    swapped = [*TOKENS[:60], TOKENS[61], TOKENS[60], *TOKENS[62:]]
    other = load_auto_tokenizer(word_tokenizer(swapped, tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"'w55' is 60 there and 61 here \(2 of 120 tokens differ\)"):
        model.check_tokenizer(other)


def test_without_a_tokenizer_beside_it(bert: str, words: SimpleSpaceTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"contains no tokenizer to compare.*model\.check_vocabulary=false"):
        HFMaskedLM(40, bert).check_tokenizer(words)
    HFMaskedLM(40, bert, check_vocabulary=False).check_tokenizer(words)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),
        ("model.safetensors", None),
        ("config.json", b'{"model_type": "be'),
        ("config.json", b'{"model_type": 3}'),
    ],
)
def test_files_that_are_cut_short(bert: str, tmp_path: Path, name: str, content: bytes | None) -> None:
    """To nothing, to a header without tensors, to a half (None); JSON that ends early or means nothing."""
    path = Path(shutil.copytree(bert, tmp_path / "cut_network")) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(ConfigError, match=r"network (cannot be used as AutoModel|contains no weights of Bert)"):
        HFMaskedLM(40, str(path.parent))


def test_weights_that_were_saved_from_inside_a_wrapper(bert: str, tmp_path: Path) -> None:
    file = Path(shutil.copytree(bert, tmp_path / "wrapped")) / "model.safetensors"
    save_file({f"module._orig_mod.{name}": t for name, t in load_file(file).items()}, file, {"format": "pt"})
    wrapped, plain = (HFMaskedLM(40, path, check_vocabulary=False) for path in (str(file.parent), bert))
    assert all(torch.equal(a, b) for a, b in zip(wrapped.parameters(), plain.parameters(), strict=True))


def test_mistakes(bert: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained_model_name_or_path=… names the folder"):
        HFMaskedLM(40)
    with pytest.raises(ConfigError, match="nowhere cannot be used as AutoModelForMaskedLM"):
        HFMaskedLM(40, str(tmp_path / "nowhere"))
    for option, near in (("hiden_dropout_prob", "hidden_dropout_prob"), ("num_hiden_layers", "num_hidden_layers")):
        for key in ("overrides", "architecture"):
            given: dict[str, Any] = {key: {option: 1}}
            given |= {"architecture": {"model_type": "bert", option: 1}} if key == "architecture" else {}
            with pytest.raises(ConfigError) as caught:
                HFMaskedLM(27, bert if key == "overrides" else None, **given)
            assert f"BertConfig has no option '{option}' (model.{key}.{option})" in str(caught.value)
            assert f"'model.{key}.{near}'" in str(caught.value)
    with pytest.raises(ConfigError, match=r"model\.architecture cannot be built"):
        HFMaskedLM(40, architecture={"model_type": "none_such"})
    with pytest.raises(ConfigError, match="A row has 33 tokens, but BertForMaskedLM has only 32 positions"):
        HFMaskedLM(40, bert, check_vocabulary=False)(torch.zeros(1, 33, dtype=torch.long))
    headless = saved(BertModel(BertConfig(**SIZES, **LENGTH)), tmp_path / "headless")
    HFMaskedLM(40, headless, check_vocabulary=False)
    assert "lacks cls.predictions" in caplog.text
