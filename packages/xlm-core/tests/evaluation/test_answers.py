"""Verdicts of a judge: one per row, the same numbers over any batches, with standard errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlm.errors import BadTargetError, ConfigError
from xlm.evaluation.answers import JudgedAnswers
from xlm.log_predictions import LogPredictions, PostHocPasses


def reverse(prompt: str, answer: str, reference: str | None, strict: bool = True) -> Any:
    measures = {"length": len(answer), "as_reference": None if reference is None else answer == reference}
    return {"valid": answer == prompt[::-1] or not strict, **measures}


def rows(*answers: str, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": "abc", "prediction": answer, **more} for answer in answers]


def test_every_row_gets_its_verdict_once_and_numbers_are_means_over_rows() -> None:
    judge = JudgedAnswers(reverse)
    marked = judge.mark(rows("cba", "cab", truth="cab"))
    assert [row["valid"] for row in marked] == [True, False]
    assert marked[0]["measures"] == {"length": 3, "as_reference": False}
    judge.judge = lambda *_: pytest.fail("judged twice")
    again, numbers = judge.eval(marked)
    assert again == marked
    assert numbers == {"valid": 0.5, "length": 3.0, "as_reference": 0.5}


def test_a_measure_that_does_not_apply_is_left_out() -> None:
    judge = JudgedAnswers(reverse, {"strict": False})
    found, numbers = judge.eval([*rows("x", "xyz"), *rows("cba", truth="cba")])
    assert [row["valid"] for row in found] == [True] * 3
    assert numbers == {"valid": 1.0, "length": 7 / 3, "as_reference": 1.0}
    assert set(judge.errors(found)) == {"valid", "length"}
    assert judge.errors(found)["valid"] == (3, 0.0)


def test_the_error_of_a_share_is_binomial() -> None:
    n, k = 40, 10
    count, error = JudgedAnswers(reverse).errors(rows(*["cba"] * k, *["x"] * (n - k)))["valid"]
    assert (count, error) == (n, pytest.approx(math.sqrt(k / n * (1 - k / n) / (n - 1))))


def test_rows_without_prompt_or_answer_are_an_error_that_says_so() -> None:
    for row in ({"prediction": "x"}, {"prompt": "x", "ids": [1]}):
        with pytest.raises(ConfigError, match=r"(?s)rows with 'prompt'.*post_hoc_evaluator\._target_=null") as caught:
            JudgedAnswers(reverse).mark([row])
        assert ", ".join(row) in str(caught.value)
    # The answer of predictors that call it text.
    assert JudgedAnswers(reverse).mark([{"prompt": "abc", "text": "cba"}])[0]["valid"]


def test_a_judge_by_path_must_exist() -> None:
    assert JudgedAnswers("xlm.tasks.sudoku.is_solution").mark(rows("x"))[0] == {**rows("x")[0], "valid": False}
    with pytest.raises(BadTargetError, match="post_hoc_evaluator"):
        JudgedAnswers("xlm.tasks.sudoku.is_solved")
    with pytest.raises(ConfigError, match=r"post_hoc_evaluator\.judge"):
        JudgedAnswers(3)  # type: ignore[arg-type]


def test_verdicts_are_written_with_the_rows_and_numbers_named_by_loader(tmp_path: Path) -> None:
    passes, log = PostHocPasses(JudgedAnswers(reverse)), LogPredictions(num_printed=0)
    log.start("val", "prediction", 3, tmp_path)
    for batch in (rows("cba", "x"), rows("x")):
        log.add("prediction", passes.add("prediction", batch))
    passes.add("other", rows("cba"))
    (file,) = log.finish()
    assert [json.loads(line)["valid"] for line in file.read_text().splitlines()] == [True, False, False]
    assert passes.errors()["prediction/valid"] == (3, pytest.approx(1 / 3))
    found = passes.finish(None)
    assert found["prediction/valid"] == pytest.approx(1 / 3)
    assert found["other/valid"] == 1.0
    assert passes.finish(None) == {}


ON_A_RANK = """
import json, sys
import torch.distributed as dist
from xlm.evaluation.answers import JudgedAnswers
from xlm.log_predictions import PostHocPasses

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
passes = PostHocPasses(JudgedAnswers(lambda prompt, answer, reference: answer == prompt))
rows = [{"prompt": "a", "prediction": "a" if n % 3 else "b"} for n in range(7)][4 * rank : 4 * rank + 4]
passes.add("prediction", rows)
if rank == 1:
    passes.add("more", [{"prompt": "a", "prediction": "a"}])
print(json.dumps([passes.errors(), passes.finish(None)]))
dist.destroy_process_group()
"""


@pytest.mark.slow  # two processes that import torch
def test_two_processes_count_all_rows_and_get_the_same_numbers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_A_RANK, str(tmp_path)]
    running = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], found
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in found)
    assert first == second
    errors, numbers = first
    assert numbers == {"prediction/valid": 4 / 7, "more/valid": 1.0}
    assert errors["prediction/valid"][0] == 7
