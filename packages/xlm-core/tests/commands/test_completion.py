"""`xlm completion bash`: what Tab completes, in bash itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.commands import BUILT_IN_JOBS
from xlm.commands.completion import print_completion, script_for_bash
from xlm.errors import ConfigError

if TYPE_CHECKING:
    from ..conftest import WriteModel

# What the shell does at Tab: it fills COMP_LINE and COMP_POINT, and reads COMPREPLY.
ASK = """\
for line in "$@"; do
  COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
  _xlm
  echo "${COMPREPLY[*]}"
done
"""


def complete(folder: Path, *lines: str) -> list[list[str]]:
    """What each line may be continued with, for a shell in `folder`."""
    script = script_for_bash() + ASK
    done = subprocess.run(
        ["bash", "-c", script, "bash", *lines], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [words.split() for words in done.stdout.splitlines()]


@pytest.fixture
def here(tmp_path: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a listed model, and an experiment of the user's own."""
    write_model(tmp_path / "toy")
    (tmp_path / "xlm_models.json").write_text('{"toy": "toy"}')
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_jobs_groups_and_keys(here: Path) -> None:
    first, traced, groups, members, values, signed, flag = complete(
        here, "xlm ", "xlm tra", "xlm train experim", "xlm train experiment=star_e", "xlm train batching=",
        "xlm train ++trainer.max_s", "xlm train --mul",
    )  # fmt: skip
    assert set(BUILT_IN_JOBS) < set(first)
    assert "hello_toy" in first  # a job of the listed model
    assert traced == ["train", "train_tokenizer", "trace"]
    assert groups == ["experiment="]
    # bash replaces what follows the =.
    assert members[0] == "star_easy"
    assert values == ["longest", "buckets", "packed"]
    assert signed == ["++trainer.max_steps="]
    assert flag == ["--multirun"]


def test_each_job_has_its_own_options(here: Path) -> None:
    split, long_form, of_trace, of_train, shells = complete(
        here, "xlm eval runs/a eval.split=", "xlm job_type=eval eval.spl", "xlm trace num_p", "xlm train num_p",
        "xlm completion b",
    )  # fmt: skip
    assert set(split) == {"test", "val"}
    assert long_form == ["eval.split="]
    assert of_trace == ["num_prompts="]
    assert of_train == []
    assert shells == ["bash"]


def test_files_of_models_and_of_the_user(here: Path) -> None:
    mine, lr, files = complete(here, "xlm train experiment=min", "xlm train optimizer.lr", "xlm eval runs/")
    assert mine == ["mine"]
    assert lr == ["optimizer.lr="]
    assert files == []  # then bash completes names of files


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"takes the name of a shell: bash\. It was given fish"):
        print_completion(["fish"])
    assert print_completion(["bash"]) == 0
    assert capsys.readouterr().out.startswith("# Completion of xlm for bash")


def test_torch_is_not_imported() -> None:
    code = "import sys; from xlm.commands.completion import script_for_bash as script; script(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "xlm.commands.completion" in done.stdout.split()
    assert "torch" not in done.stdout.split()
