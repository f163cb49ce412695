"""Corpora with every family, from small mirrors in their published layout; a run evaluated on other corpora."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.commands import train
from xlm.compose import load_config
from xlm.data.trained_tokenizer import train_tokenizer
from xlm.utils.instantiate import clear_components

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
SMALL = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "per_device_batch_size=4",
    "trainer_strategy=cpu", "loggers=debug", "test_after_training=false", "job_name=mine",
)  # fmt: skip
PIECES = ["the cat did n't sit", "a dog 's ( red ) ball", "it cost $ 5 , he said", '" yes " , said the king']
SENTENCES = [f"{a} . {i} {b} !" for i in range(12) for a in PIECES for b in PIECES]


def json_lines(path: Path, texts: list[str], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))


def pretrained(name: str) -> Callable[[], None]:
    """Writes a little tokenizer under the published name."""
    kind: Any = "wordpiece" if name.startswith("bert") else "bpe"
    return lambda: train_tokenizer(SENTENCES, kind, 320).save_pretrained(name)


def lm1b() -> None:
    json_lines(Path("billion-word-benchmark/lm1b/train.jsonl"), SENTENCES)
    json_lines(Path("billion-word-benchmark/lm1b/test.jsonl"), SENTENCES[:20])
    pretrained("bert-base-uncased")()


def owt() -> None:
    json_lines(Path("Skylion007/openwebtext/train.jsonl"), SENTENCES)
    pretrained("gpt2")()


def stories() -> None:
    texts = [f"Tom had {i} cats.\n\nAnn said hi. They played." for i in range(120)]
    Path("stories.txt").write_text("\n<|endoftext|>\n".join(texts))


def text8() -> None:
    Path("text8").write_text("a quick brown fox jumps over one lazy dog " * 200)


def molecules() -> None:
    rows = "".join(f"{number},{'C' * (1 + number % 17)}{end}\n" for number in range(60) for end in ("O", "N", "Cl"))
    Path("molecules.csv").write_text("index,smiles\n" + rows)


def proteins() -> None:
    names = "ACDEFGHIKLMNPQRSTVWY"
    rows = [f">UniRef50_{i} x\n{names[i % 20 :]}\n{names[: i % 13]}*\n" for i in range(150)]
    Path("small.fasta").write_text("".join(rows))


def tinygsm() -> None:
    pretrained("gpt2")()
    rows = [{"question": f"a cat, {a} dogs?", "code": f"def simple_math_problem():\n  return {a}"} for a in range(30)]
    answers = [{"question": f"{a} kings?", "answer": f"the sum\n#### {a}"} for a in range(6)]
    for name, found in (("TinyGSM/TinyGSM/train", rows), ("openai/gsm8k/main/test", answers)):
        Path(name).parent.mkdir(parents=True)
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


PARTS = {"train": "train[:150]", "val": "train[150:170]", "test": "train[170:]"}


def python_code() -> None:
    Path("code").mkdir()
    for number in range(80):
        Path(f"code/m{number}.py").write_text(f"def f{number}(a):\n    b = a + {number}\n    return b\n")
    problem = {"prompt": "def g(a):\n", "canonical_solution": "    b = a + 1\n    return b\n", "entry_point": "g",
               "test": "def check(candidate):\n    assert candidate(1) == 2\n"}  # fmt: skip
    Path("problems.jsonl").write_text(json.dumps(problem) + "\n")


MANAGERS = "datamodule.dataset_managers"
OF_PARTS = [f"{MANAGERS}.{split}.lm.split='{rows}'" for split, rows in PARTS.items()]
CORPORA: dict[str, tuple[Callable[[], None], list[str]]] = {
    "lm1b": (lm1b, ["block_size=32"]),
    "owt": (owt, ["block_size=32", *OF_PARTS]),
    "owt_packed": (owt, ["block_size=32", *OF_PARTS]),
    "text8": (text8, ["chunk_size=16", "corpus_file=text8"]),
    "stories": (stories, ["block_size=64", "vocab_size=300", "corpus_file=stories.txt"]),
    "stories_infill": (stories, ["block_size=64", "vocab_size=300", "corpus_file=stories.txt"]),
    "qm9": (molecules, ["corpus_file=molecules.csv"]),
    "safe_molgen": (molecules, ["block_size=32", "corpus_file=molecules.csv"]),
    "uniref50": (proteins, ["block_size=48", "corpus_file=small.fasta"]),
    "tinygsm": (
        tinygsm,
        ["input_block_size=48", "block_size=96", f"{MANAGERS}.train.lm.split='train[6:]'"]
        + [f"{MANAGERS}.val.{name}.split='train[:6]'" for name in ("lm", "prediction")],
    ),
    "python_code": (python_code, ["block_size=48", "vocab_size=300", "corpus_file=code"]),
    "python_code_infill": (
        python_code,
        [
            "block_size=48",
            "vocab_size=300",
            "corpus_file=code",
            "human_eval_file=problems.jsonl",
            "test_after_training=true",
            f"{MANAGERS}.test.unconditional_prediction.num_examples=1",
        ],
    ),
}
# Some with every change, all of them with every family every night.
OFTEN = {("lm1b", "mlm"), ("stories_infill", "ilm"), ("qm9", "arlm"), ("python_code_infill", "mdlm")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(corpus: str, family: str, *overrides: str) -> dict[str, float]:
    write, sizes = CORPORA[corpus]
    write()
    choices = [f"datamodule={corpus}", f"model_type={family}", f"model=xtiny_{family}"]
    train.run(load_config([*choices, *SMALL, *sizes, *overrides]))
    clear_components()
    metrics: dict[str, float] = json.loads(Path("runs/mine/results.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize(
    ("corpus", "family"),
    [
        pytest.param(corpus, family, marks=() if (corpus, family) in OFTEN else pytest.mark.slow)
        for corpus in CORPORA
        for family in FAMILIES
        if not (corpus.endswith("_infill") and family == "arlm")  # which fills no gaps
    ],
)
def test_every_family_learns_from_every_corpus(corpus: str, family: str) -> None:
    metrics = trained(corpus, family)
    assert metrics["val/lm/accumulated_loss"] > 0
    if corpus == "stories_infill":
        assert metrics["val/infill_prediction/exact_match"] < 1
    if corpus == "python_code_infill":
        assert metrics["test/infill_prediction/passes_tests"] == metrics["test/infill_prediction/valid"] == 0
    if corpus == "tinygsm":
        assert metrics["val/prediction/valid"] == metrics["val/prediction/runs"] == 0
    if corpus == "qm9":
        shares = ("validity", "unique_strings")  # with and without RDKit
        assert any(0 <= metrics.get(f"val/unconditional_prediction/{share}", -1) <= 1 for share in shares)


def test_a_run_is_evaluated_on_other_corpora(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("text8", "mdlm")
    wiki = Path("Salesforce/wikitext/wikitext-103-raw-v1/test.jsonl")
    json_lines(wiki, ["", " = a = \n", " the dog 's ball , a @-@ b . \n"] * 10)
    (folder / "ptb.txt").write_text("he did n't pay\n" * 5)
    assert main(["eval", "runs/mine", "eval.data=wikitext"]) == 0
    assert main(["eval", "runs/mine", "eval.data=ptb", "eval.data_file=ptb.txt"]) == 0
    for name in ("wikitext", "ptb"):
        record = json.loads(Path(f"runs/mine/eval_test_{name}.json").read_text())
        found = record["likelihood"]["test/lm"]
        assert found["perplexity"]["value"] > 1
        assert found["bits_per_byte"]["value"] > 0
    # Five sentences of 13 characters and an EOS each, in blocks of 16, which have an EOS of their own.
    assert record["n"] == {"test/lm": 5}
    capsys.readouterr()
    for words, message in {
        ("eval.data=wikitex",): "Did you mean 'wikitext'",
        ("eval.data=default",): "datamodule 'default' has no data in test. Choose another eval.split.",
        ("eval.data_file=ptb.txt",): "For the run's own data: data_files.test=ptb.txt.",
        ("datamodule=wikitext",): "To evaluate on other data, give eval.data=wikitext.",
        ("eval.data=stories_infill", "eval.data_file=gone.txt"): "No such file or folder of data: gone.txt",
    }.items():
        assert main(["eval", "runs/mine", *words]) == 1
        assert message in capsys.readouterr().err
