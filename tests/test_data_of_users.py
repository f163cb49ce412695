"""Data of one's own at the command line: a small vocabulary, lines beyond a block, changed files, bytes in and out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from warm_xlm import warm_xlm

pytestmark = [pytest.mark.timeout(300)]

SETTINGS = (
    "datamodule=own_text", "model_type=mlm", "model=xtiny_mlm", "tokenizer=letters", "trainer_strategy=cpu",
    "loggers=debug", "per_device_batch_size=4", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "test_after_training=false", "block_size=16", "job_name=dna", "too_long=split",
    "data_files.train=dna.txt", "data_files.val=dna.txt", "data_files.test=dna.txt",
    "datamodule.dataset_managers.val.unconditional_prediction.num_examples=1",
)  # fmt: skip
LINES = ["GATTACA" * n for n in range(1, 8)]


def xlm(cwd: Path, *arguments: str, code: int = 0, stdin: bytes = b"", **environment: str) -> tuple[bytes, str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XLM_CACHE_DIR": str(cwd / "cache"), **environment}
    done = subprocess.run([*warm_xlm(env), *arguments], cwd=cwd, env=env, capture_output=True, input=stdin, timeout=250)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout, done.stderr.decode()


def save_tokenizer(folder: Path, **special_tokens: str) -> None:
    backend = Tokenizer(models.WordLevel({"A": 0, "C": 1, "G": 2, "T": 3, "é": 4, "[UNK]": 5}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special_tokens).save_pretrained(folder)


def test_letters_in_lines_beyond_a_block(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "letters")
    data = tmp_path / "dna.txt"
    data.write_text("\n".join(LINES) + "\n")
    # Trained in pieces, and told so.
    _, said = xlm(tmp_path, "train", *SETTINGS)
    assert (
        "train.lm: 5 of 7 texts have more than the 14 tokens that fit (block_size), the longest 49; they are split"
        in said
    )
    # Other content under the same name is another run, and nothing is changed.
    data.write_text("\n".join(LINES).replace("C", "G") + "\n")
    _, said = xlm(tmp_path, "train", *SETTINGS, "trainer.max_steps=4", code=1)
    assert "holds a run on other training data; nothing was changed" in said
    assert "train.lm (dna.txt): other content" in said
    # Bytes come in and go out as UTF-8, whatever the terminal says.
    row, _ = xlm(
        tmp_path, "generate", "generation.checkpoint_path=runs/dna", "generation.prompts=-", "generation.output=-",
        stdin="\ufeffGAéTA___[2]\n".encode(), PYTHONIOENCODING="latin-1", LANG="C",
    )  # fmt: skip
    assert json.loads(row.decode("utf-8").splitlines()[-1])["prompt"].startswith("GAéTA")
    # A mask that is EOS is named before anything is trained.
    save_tokenizer(tmp_path / "letters", eos_token="<|e|>", mask_token="<|e|>")
    _, said = xlm(tmp_path, "train", *SETTINGS, "job_name=same", code=1)
    assert said.startswith("Error: The tokenizer's mask token and eos token are both '<|e|>'")
    assert not (tmp_path / "runs/same").exists()
