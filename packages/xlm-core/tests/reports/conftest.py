"""Writes run folders as training and evaluation do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WriteRun = Callable[..., Path]
CONFIG = """\
job_name: {name}
model_name: {model}
trainer: {{max_steps: 20}}
optimizer: {{lr: {lr}}}
paths: {{log_dir: /somewhere}}
"""


def record(model: str, started: str = "2026-01-01T10:00:00+0000") -> dict[str, Any]:
    return {
        "started": started,
        "command": ["xlm", "job_type=train", f"experiment=star_easy_{model}", "seed=1"],
        "seed": 1,
        "device": "cpu: 1 threads, x86_64",
        "git": {"commit": "0123456789abcdef", "changed": False},
        "versions": {"python": "3.11.7", "torch": "2.6"},
        "precision": "32-true",
        "job_type": "train",
    }


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """A run in `runs/<name>`: `answers` are those that it predicts for the examples 0, 1, 2, … (truth: `<i> <i>`)."""

    def write(
        name: str, model: str = "toy", lr: float = 0.1, answers: list[str] | None = None, ended: bool = True
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG.format(name=name, model=model, lr=lr))
        (folder / "record_train.json").write_text(json.dumps(record(model)))
        lines = ["step,name,value,time"]
        for step in range(1, 21):
            lines.append(f"{step},train/lm/accumulated_loss,{3 / step},{1000.0 + step}")
            lines.append(f"{step},train/tokens_per_second,{100.0 + step},{1000.0 + step}")
        lines += [f"{step},val/prediction/exact_match,{step / 40},{1000.0 + step}" for step in (10, 20)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        answers = answers or []
        if answers:
            place = folder / "predictions" / "test" / "prediction"
            place.mkdir(parents=True)
            rows = [
                {"prompt": f"what is {i}", "prediction": answer, "truth": f"{i} {i}"}
                for i, answer in enumerate(answers)
            ]
            (place / "step_00000020.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if ended:
            right = sum(answer == f"{i} {i}" for i, answer in enumerate(answers))
            results = {
                **record(model),
                "parameters": 1234,
                "training": {"cpu_seconds": 120.0, "wall_seconds": 60.0, "tokens_per_second": 110.5},
                "step": 20,
                "metrics": {
                    "test/lm/accumulated_loss": 0.5,
                    "test/prediction/exact_match": right / max(1, len(answers)),
                },
                "n": {"test/prediction": len(answers), "test/lm": 7},
            }
            (folder / "results.json").write_text(json.dumps(results))
        return folder

    return write
