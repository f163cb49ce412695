"""Bits per byte divide by the bytes of the source texts, however much a tokenizer loses, in every family."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.compose import load_config
from xlm.evaluation.likelihood import LikelihoodPass, Measured, text_bytes
from xlm.inference.session import start

BLOCK = 12
WORDS = ["in", "the", "beginning", "etait", "un", "mot", "and", "was", "##s", "word"]
# Capitals, accents, blanks and unknown characters are lost; the last four are as long as a block or longer.
TEXTS = [
    "In the Beginning WAS the Word", "", "ÉTAIT un mot", "the 語 was 🙂🙂🙂 the word", "in", "AND", "Ünknown",
    *("THE  " * n for n in range(BLOCK - 2, BLOCK + 2)),
]  # fmt: skip
SHORT = 7
OTHERS = ["Was", "THE MOT", "", "un"]
MANAGERS = "datamodule.dataset_managers"


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """An uncased WordPiece tokenizer that knows few words, and files of texts, in the current directory."""
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    vocab |= {f"w{i}": len(vocab) + i for i in range(90)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(home / "uncased")
    for name, texts in {"test": TEXTS, "train": OTHERS, "val": OTHERS}.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return home


def words(family: str, *more: str) -> list[str]:
    """A text experiment on the files, in batches of four."""
    return [
        f"experiment=text_{family}", f"model=xtiny_{family}", f"job_name={family}", "trainer_strategy=cpu",
        "loggers=debug", "datamodule=text", f"block_size={BLOCK}", "per_device_val_batch_size=4",
        "per_device_batch_size=2", "global_components.tokenizer._target_=xlm.datamodule.load_auto_tokenizer",
        "+global_components.tokenizer.pretrained_model_name_or_path=uncased",
        "~global_components.tokenizer.vocab_size", "~global_components.tokenizer.cache_dir",
        *(f"++data_files.{split}={split}.jsonl" for split in ("train", "val", "test")),
        *(f"~{MANAGERS}.{split}.unconditional_prediction" for split in ("val", "test")), *more,
    ]  # fmt: skip


def measured(family: str, *more: str) -> tuple[Measured, Any]:
    """The likelihood of the test texts under an untrained network, and the tokenizer."""
    session = start(load_config(words(family, *more)))
    likelihood = LikelihoodPass(2)
    trainer = session.trainer([likelihood], [])
    trainer.test(session.harness(), datamodule=session.datamodule, verbose=False)
    return likelihood.measured["test/lm"], session.tokenizer


def check(found: Measured, num_bytes: int) -> None:
    likelihood = found.likelihood
    total = likelihood.nll_per_sequence * likelihood.num_examples
    assert likelihood.bits_per_byte == pytest.approx(total / math.log(2) / num_bytes, rel=1e-12)


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("family", ["arlm", "mlm", "mdlm", "ilm"])
def test_the_bytes_are_those_of_the_source_texts(family: str, home: Path) -> None:
    """A text that is cut to its block counts the bytes of what is left, decoded."""
    found, _ = measured(family)
    room = BLOCK - (2 if family == "ilm" else 1)
    cut = [text for text in TEXTS if text.count("  ") > room]
    assert len(cut) == (3 if family == "ilm" else 2)
    check(found, size([text for text in TEXTS if text not in cut]) + len(cut) * size([" ".join(["the"] * room)]))
    assert (found.bytes, found.num_decoded, found.likelihood.num_examples) == ("mixed", len(cut), len(TEXTS))


def test_where_the_data_hold_no_texts_the_bytes_are_decoded(home: Path) -> None:
    """Caches of before, data of ids, packed texts."""
    few = f"{MANAGERS}.test.lm.num_examples={SHORT}"
    source, _ = measured("arlm", few)
    assert (source.bytes, source.num_decoded) == ("source", 0)
    check(source, size(TEXTS[:SHORT]))
    older, tokenizer = measured("arlm", few, f"{MANAGERS}.test.lm.columns_to_keep=[input_ids]")
    assert (older.bytes, older.num_decoded) == ("decoded", SHORT)
    ids = tokenizer(TEXTS[:SHORT], add_special_tokens=False)["input_ids"]
    check(older, size(tokenizer.batch_decode(ids, skip_special_tokens=True)))
    assert older.likelihood.nll == source.likelihood.nll
    packed, _ = measured(
        "arlm", f"+{MANAGERS}.test.lm.on_the_fly_group_processor=xlm.datamodule.pack_sequences",
        f"+{MANAGERS}.test.lm.on_the_fly_group_processor_kwargs.block_size={BLOCK - 2}",
    )  # fmt: skip
    assert packed.bytes == "decoded"


def test_overfitting_counts_the_texts_that_it_repeats(home: Path) -> None:
    found, _ = measured("arlm", "debug=overfit")
    assert found.likelihood.num_examples == 2
    assert found.bytes == "source"
    nats = found.likelihood.nll_per_sequence * 2
    assert round(nats / math.log(2) / (found.likelihood.bits_per_byte or 0)) in {
        size([a, b]) for a in OTHERS for b in OTHERS if a != b
    }


def test_no_collator_sees_the_bytes(home: Path) -> None:
    session = start(load_config(words("arlm")))
    session.datamodule.setup("test")
    (loader,) = session.datamodule.test_dataloader()
    assert set(loader.dataset[0]) == {"input_ids", "noise_seed", "time_quantile", "noise_level"}
    assert [row["num_bytes"] for row in loader.rows_of_batch(2)] == [len(text.encode()) for text in TEXTS[8:]]


def test_an_evaluation_says_which_bytes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.run(load_config(words("arlm", "trainer.max_steps=1", "trainer.val_check_interval=1",
                                "trainer.log_every_n_steps=1", "test_after_training=false")))  # fmt: skip
    capsys.readouterr()
    evaluation.run(load_config(words("arlm")))
    assert "bytes of the source texts, but of the decoded tokens in 2 of 11 examples" in capsys.readouterr().out
    record = json.loads(Path("runs/arlm/eval_test.json").read_text())["likelihood"]["test/lm"]
    assert (record["bytes"], record["num_decoded"]) == ("mixed", 2)


def test_labels_of_a_task_have_no_bytes() -> None:
    import torch

    from xlm.datamodule import SimpleSpaceTokenizer

    assert text_bytes(torch.tensor([[7, -100]]), SimpleSpaceTokenizer.for_numbers(3), [{"num_bytes": 1}]) is None


SCRIPT = """
import json, sys
from xlm.compose import load_config
from xlm.evaluation.likelihood import LikelihoodPass
from xlm.inference.session import start

session = start(load_config(sys.argv[1:]))
likelihood = LikelihoodPass(2)
trainer = session.trainer([likelihood], [])
trainer.test(session.harness(), datamodule=session.datamodule, verbose=False)
if trainer.is_global_zero:
    open("two.json", "w").write(json.dumps(likelihood.measured["test/lm"].record()))
"""


@pytest.mark.slow
def test_two_processes_count_what_one_does(home: Path) -> None:
    one, _ = measured("arlm")
    two = ("trainer_strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "per_device_val_batch_size=2")
    (home / "count.py").write_text(SCRIPT)  # a file, since Lightning starts the second process with the same words
    command = [sys.executable, "count.py", *words("arlm", *two)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((home / "two.json").read_text())
    assert (found["n"], found["bytes"], found["num_decoded"]) == (len(TEXTS), "mixed", 2)
    assert found["bits_per_byte"]["value"] == pytest.approx(one.likelihood.bits_per_byte, rel=1e-6)
