"""Jobs through Hydra in this process: custom jobs, sweeps, Hydra's flags, and errors."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.cli.main import main
from xlm.cli.run import Task
from xlm.external_models import activate, active_models, discover

if TYPE_CHECKING:
    from ..conftest import WriteModel

pytestmark = pytest.mark.usefixtures("fresh_process")

JOBS = """\
import signal

from omegaconf import OmegaConf

from xlm.errors import TrainingInterrupted
from xlm.utils.instantiate import instantiate


def use_model(cfg):
    instantiate(cfg.model)


def crash(cfg):
    return {}["a bug"]


def value_error(cfg):
    raise ValueError("a bug")


def interrupted(cfg):
    raise TrainingInterrupted(signal.SIGTERM, "last.ckpt")


def ctrl_c(cfg):
    raise KeyboardInterrupt


def missing(cfg):
    return cfg.no_such_key


def three(cfg):
    return 3


def metrics(cfg):
    return {"loss": 1.0}


def sometimes(cfg):
    if cfg.seed == 2:
        raise RuntimeError("seed 2 is bad luck")
    print(cfg.job_name)


def environment(cfg):
    import os
    print(os.environ.get("HYDRA_FULL_ERROR"))
"""


@pytest.fixture(autouse=True)
def toy(work_dir: Path, write_model: WriteModel) -> Path:
    root = write_model(work_dir / "toy")
    (root / "toy_jobs.py").write_text(JOBS)
    names = ("use_model", "crash", "value_error", "interrupted", "ctrl_c", "missing", "environment", "three", "metrics",
             "sometimes")  # fmt: skip
    commands = "".join(f"{name}: toy.toy_jobs.{name}\n" for name in names)
    (root / "configs" / "commands.yaml").write_text(f"hello: toy.parts.hello\nlost: toy.nowhere.run\n{commands}")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    return root


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_custom_job_gets_the_configuration(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    code, out, err = run(capsys, "hello", "experiment=toy")
    assert (code, out, err) == (0, f"hello from {toy / 'parts.py'} as toy\n", "")


def test_what_a_job_returns_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "three", "experiment=toy")[0] == 3
    assert run(capsys, "metrics", "experiment=toy")[0] == 0


# A command with its own options needs an entry, a dataclass and a function.
NEW_COMMAND = """\
count:
  target: toy.counting.count
  help: count the words of texts
  kind: standalone
  options: toy.counting.Counting
"""
NEW_MODULE = '''\
from dataclasses import dataclass

from xlm.utils.annotations import option


@dataclass(frozen=True)
class Counting:
    """Options of a count:"""

    longest: int = option(0, "count words up to this length; 0: all")


def count(words, options):
    print(sum(not options.longest or len(word) <= options.longest for word in words))
    return int(not words)
'''


def test_a_model_brings_a_standalone_command_in_a_few_lines(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    assert len((NEW_COMMAND + NEW_MODULE).splitlines()) <= 20
    (toy / "counting.py").write_text(NEW_MODULE)
    (toy / "configs" / "commands.yaml").write_text(NEW_COMMAND)
    assert run(capsys, "count", "one", "three", "longest=3") == (0, "1\n", "")
    assert run(capsys, "count")[0] == 1
    code, _, err = run(capsys, "count", "one", "longest=a")
    assert (code, err) == (1, "Error: longest is 'a', and must be a whole number.\n")
    assert "Did you mean 'longest'?" in run(capsys, "count", "longst=3")[2]
    code, out, _ = run(capsys, "count", "--help")
    assert code == 0
    assert out.splitlines()[0] == "xlm count: count the words of texts"
    assert "  longest  count words up to this length; 0: all (a whole number) [0]" in out.splitlines()
    assert "  count               count the words of texts" in run(capsys, "--help")[1]


def test_a_sweep_runs_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "-m", "name", "experiment=toy", "seed=1,2", "model.width=3")
    assert code == 0
    assert out.split() == [f"toy,model.width=3,seed={seed}" for seed in (1, 2)]


def test_a_sweep_in_a_folder_is_named_by_what_varies(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "name", "experiment=toy", "model.width=3,4", "seed=1", "job_name=my sweep"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.splitlines() == [f"my sweep/model.width={width}" for width in (3, 4)]


def test_hydras_flags_keep_working(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--cfg", "job", "experiment=toy", "--resolve", "--package", "model")
    assert (code, out, err) == (0, "# @package model\n_target_: toy.parts.Net\nwidth: 4\n", "")
    code, out, err = run(capsys, "--cfg", "job", "data.text=a.txt", "model_type=toy", "--package", "data_files.train")
    assert (code, out.split("\n")[-2:]) == (0, ["a.txt", ""])
    assert err.startswith("This is the configuration as it is written down.")
    code, out, _ = run(capsys, "experiment=toy", "--info", "searchpath")
    assert code == 0
    assert "model 'toy' (xlm_models.json)" in out
    code, out, err = run(capsys, "experiment=toy", "--resolve")
    assert code == 1
    assert err.startswith("Error: The --resolve flag")


def test_a_config_dir_beside_the_models(capsys: pytest.CaptureFixture[str], work_dir: Path) -> None:
    (work_dir / "conf" / "datamodule").mkdir(parents=True)
    (work_dir / "conf" / "datamodule" / "star_easy_toy.yaml").write_text("# @package _global_\nseed: 77\n")
    shown = ["--cfg", "job", "--package", "seed"]
    code, out, _ = run(
        capsys, *shown, "--config-dir", "conf", "datamodule=star_easy_toy", "model=toy", "model_type=toy"
    )
    assert (code, out.strip()) == (0, "77")


@pytest.mark.parametrize(
    ("args", "first_line"),
    [
        (["trian"], "Unknown job_type 'trian'. Jobs: "),
        (["train", "experiment=ty"], "Could not find 'experiment/ty'"),
        (["train", "experiment=toy", "trainr.x=1"], "Key 'trainr' is not in the configuration"),
        (["train", "experiment=toy", "global_batch_size=100"], "global_batch_size 100 is not divisible by"),
        (["train", "experiment=toy", "model=null"], "Config group override must be a string or a list"),
        (["train", "datamodule=star_easy", "model=toy", "model_type=toy"], "model_type 'toy' has no collator for the"),
        (["lost", "experiment=toy"], "Unable to find or instantiate toy.nowhere.run (key 'job_type=lost'"),
        (["--config-dir", "nowhere", "experiment=toy"], "Additional config directory"),
        (["--config-name", "nothing", "experiment=toy"], "Cannot find primary config 'nothing'"),
        (["missing", "experiment=toy"], "Key 'no_such_key' is not in struct"),
        (
            ["use_model", "experiment=toy", "model._target_=toy.parts.Ned"],
            "Unable to find or instantiate toy.parts.Ned",
        ),
        (["use_model", "experiment=toy", "+model.widht=1"], "toy.parts.Net cannot be called (key 'model')"),
    ],
)
def test_mistakes_are_one_short_message(
    capsys: pytest.CaptureFixture[str], work_dir: Path, args: list[str], first_line: str
) -> None:
    before = {path for path in work_dir.rglob("*") if "__pycache__" not in path.parts}
    code, out, err = run(capsys, *args)
    assert code == 1
    assert out == ""
    assert err.partition(": ")[2].startswith(first_line)
    assert len(err.splitlines()) <= 8
    assert "Traceback" not in err
    assert {path for path in work_dir.rglob("*") if "__pycache__" not in path.parts} == before


def test_a_bad_target_says_where_it_is_written(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    model = toy / "configs" / "model" / "toy.yaml"
    model.write_text("_target_: toy.broken.Net\n")
    (toy / "broken.py").write_text("import toy_dependency_that_is_not_there\n")
    code, _, err = run(capsys, "use_model", "experiment=toy")
    assert code == 1
    assert err.splitlines() == [
        f"Error: Unable to find or instantiate toy.broken.Net (key 'model', written in {model})",
        f"ModuleNotFoundError: No module named 'toy_dependency_that_is_not_there' ({toy / 'broken.py'}:1)",
        f'Try it alone: PYTHONPATH={toy.parent} python -c "from toy.broken import Net"',
    ]


def test_the_same_mistakes_in_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "-m", "missing", "experiment=toy", "seed=1,2")
    assert code == 1
    assert err.count("This run ends here: toy,seed=") == 2
    assert "\nError: 2 of 2 runs failed.\n  toy,seed=1: Key 'no_such_key' is not in struct" in err
    code, _, err = run(capsys, "-m", "missing", "experiment=toy", "seed=1")
    assert code == 1
    assert "\nError: Key 'no_such_key' is not in struct" in err


@pytest.mark.parametrize(
    "batches", [[], pytest.param(["hydra.sweeper.max_batch_size=1"], marks=pytest.mark.slow)], ids=["one", "several"]
)
def test_a_run_that_fails_does_not_end_the_sweep(capsys: pytest.CaptureFixture[str], batches: list[str]) -> None:
    code, out, err = run(capsys, "-m", "sometimes", "experiment=toy", "seed=1,2,3", *batches)
    assert (code, out.split()) == (1, ["toy,seed=1", "toy,seed=3"])
    assert "Traceback" in err  # a bug shows where it is
    assert err.endswith(
        "Error: 1 of 3 runs failed. The others are complete.\n  toy,seed=2: seed 2 is bad luck\n"
        "The same command continues or repeats them.\n"
    )


def test_jobs_are_submitted_on_a_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["name", "experiment=toy", "hydra/launcher=slurm", "trainer.devices=1"]
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert err.startswith("Error: hydra/launcher: there is no srun on the PATH, so jobs cannot be submitted from here.")
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert "invalid partition specified: gpu" in err
    assert "Traceback" not in err


def test_a_signal_ends_the_whole_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "-m", "interrupted", "experiment=toy", "seed=1,2,3")
    assert (code, out, err.count("Interrupted by SIGTERM")) == (143, "", 1)


def test_a_sweeper_needs_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["name", "experiment=toy", "trainer.max_steps=3", "job_name=a,b"]
    code, out, err = run(capsys, *words, "seed=2", "hydra/launcher=basic")
    assert (code, out, err) == (0, "a,b\n", "")
    code, out, err = run(capsys, *words, "seed=2", "hydra/sweeper=optuna")
    assert (code, out) == (1, "")
    assert "hydra/sweeper=optuna needs values to choose from" in err


def test_full_errors_on_demand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = run(capsys, "use_model", "experiment=toy", "model._target_=toy.parts.Ned")
    assert code == 1
    assert "Traceback" in err
    assert "InstantiationException" in err
    assert "Error: Unable to find or instantiate toy.parts.Ned" in err
    assert run(capsys, "environment", "experiment=toy")[1] == "1\n"


def test_jobs_see_the_environment_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "environment", "experiment=toy")[1] == "None\n"
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(("job", "error"), [("crash", KeyError), ("value_error", ValueError)])
def test_bugs_keep_their_traceback(job: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        main([job, "experiment=toy"])
    assert caught.traceback[-1].name == job


def test_interruptions_have_the_signals_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "interrupted", "experiment=toy")
    assert (code, err.splitlines()[0]) == (143, "Interrupted by SIGTERM; saved last.ckpt.")
    code, _, err = run(capsys, "ctrl_c", "experiment=toy")
    assert (code, err) == (130, "Interrupted.\n")


def test_arguments_of_this_process_come_back() -> None:
    before = list(sys.argv)
    main(["name", "experiment=toy"])
    assert sys.argv == before


def test_a_task_prepares_the_process_that_unpickles_it(work_dir: Path) -> None:
    found = discover({}, work_dir)
    sent = pickle.dumps(Task(found, [], [], ["experiment=toy"]))
    activate({})
    received = pickle.loads(sent)
    assert active_models() == found.models
    assert received.overrides == ("experiment=toy",)


def test_warnings_are_said_once_before_the_job(
    capsys: pytest.CaptureFixture[str], work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work_dir / "xlm_models.json").write_text('{"toy": "toy", "lost": "lost"}')
    code, out, err = run(capsys, "name", "experiment=toy")
    assert (code, out) == (0, "toy\n")
    assert err.startswith("Warning: xlm_models.json: model 'lost'")
    assert err.count("Warning") == 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(capsys, "name", "experiment=toy")[2] == ""
