"""Models of strangers as templates: in every layout, with jobs, without experiments, and what cannot be copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from xlm.compose import load_config
from xlm.scaffold.templates import own_jobs, with_star_easy

if TYPE_CHECKING:
    from ..conftest import WriteModel
    from .conftest import Scaffold

BIGRAM = Path(__file__).parents[1] / "models"


@pytest.fixture
def toy(work_dir: Path, write_model: WriteModel, request: pytest.FixtureRequest) -> Path:
    """A model toy_one in the layout that the test names, whose datamodule carries its name."""
    layout = getattr(request, "param", "flat")
    (work_dir / "xlm_models.json").write_text('{"toy_one": "place/toy_one"}')
    return write_model(work_dir / "place" / "toy_one", "toy_one", layout, package="toy_one")


@pytest.mark.usefixtures("fresh_process", "toy")
@pytest.mark.parametrize("toy", ["flat", "nested", "inner"], indirect=True)
def test_a_copy_stands_beside_its_template(scaffold: Scaffold, work_dir: Path) -> None:
    assert scaffold("toy_two", "--template", "toy_one", "--layout", "nested") == 0
    for name in ("toy_one", "toy_two"):
        cfg = load_config([f"experiment={name}"], environ={}, cwd=work_dir)
        assert cfg.model._target_ == f"{name}.parts.Net"
        assert cfg.collators.lm._target_ == f"{name}.parts.Collator"
    jobs = yaml.safe_load((work_dir / "toy_two/toy_two/configs/commands.yaml").read_text())
    assert jobs == {"hello_toy_two": "toy_two.parts.hello"}


@pytest.mark.usefixtures("fresh_process")
def test_a_model_of_star_graphs_gets_the_experiment(
    scaffold: Scaffold, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLM_MODELS_PATH", str(BIGRAM))
    assert scaffold("toy_copy", "--template", "bigram") == 0
    cfg = load_config(["experiment=star_easy_toy_copy"], cwd=work_dir)
    assert cfg.predictor._target_ == "toy_copy.components_toy_copy.BigramPredictor".replace("Bigram", "ToyCopy")
    jobs = yaml.safe_load((work_dir / "toy_copy/configs/commands.yaml").read_text())
    assert jobs == {"hello_toy_copy": "toy_copy.components_toy_copy.say_hello"}


def test_jobs_carry_the_name() -> None:
    text = "# jobs\nhello: m.x.hello\nm_train: m.x.train\n"
    assert own_jobs(text, "m") == "# jobs\nhello_m: m.x.hello\nm_train: m.x.train\n"


def test_a_model_of_other_data_gets_no_experiment() -> None:
    configs = {"model/m.yaml": "", "model_type/m.yaml": "  - /collator@collators.lm: lm_m\n"}
    assert with_star_easy(configs, "m") == configs


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("configs/datasets/counts.yaml", "x: 1\n", "configs/datasets/counts.yaml does not contain the model's name"),
        ("broken.py", "def", "is not valid Python"),
        ("bytes.py", b"\xff", "cannot be read"),
    ],
)
def test_what_cannot_be_copied_is_refused(
    scaffold: Scaffold,
    work_dir: Path,
    toy: Path,
    tree: Any,
    capsys: pytest.CaptureFixture[str],
    path: str,
    text: str | bytes,
    reason: str,
) -> None:
    (toy / path).parent.mkdir(exist_ok=True)
    (toy / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = tree(work_dir)
    assert scaffold("toy_two", "--template", "toy_one") == 1
    assert tree(work_dir) == before
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("listed", ["gone", "lm"])
def test_a_template_that_cannot_be_used(
    scaffold: Scaffold, work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str], listed: str
) -> None:
    if listed == "lm":
        write_model(work_dir / "lm", "lm")
    (work_dir / "xlm_models.json").write_text(json.dumps({listed: listed}))
    assert scaffold("toy_two", "--template", listed) == 1
    reason = {"gone": "which does not exist", "lm": "'lm' is too common a word"}[listed]
    assert reason in capsys.readouterr().err
