"""xlm-scaffold with every model as a template, and its packages built, installed and found in both ways."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from linked_environment import Environment
from warm_xlm import warm_xlm
from wheels import build
from workspace import CORE, ROOT, read_packages
from xlm.compose import load_config, to_yaml
from xlm.external_models import activate, find_models

PACKAGES = read_packages(ROOT)
MODELS = sorted(package.import_name for name, package in PACKAGES.items() if name != CORE)
BIN = Path(sys.executable).parent
LAYOUTS = ["flat", "nested"]
# Names of their own: a process that has found two models of one name would call it a conflict.
COPIES = [(model, f"copy_{number}") for number, model in enumerate(MODELS)]


def run(folder: Path, *command: str, ok: bool = True) -> str:
    """What a program of this environment printed, errors included; it must succeed, or fail if not `ok`."""
    program = warm_xlm() if command[0] == "xlm" else (BIN / command[0],)
    done = subprocess.run(
        [*program, *command[1:]], cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def config_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}


@pytest.fixture
def deactivated() -> Iterator[None]:
    """No model stays active in this process."""
    yield
    activate({})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache of prepared data for all runs here."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("deactivated")
@pytest.mark.parametrize(("model", "copy"), COPIES)
def test_a_copy_of_a_model_composes_all_its_experiments(tmp_path: Path, model: str, copy: str) -> None:
    run(tmp_path, "xlm-scaffold", copy, "--template", model)
    original = find_models({}, tmp_path)[model]
    copied = config_files(tmp_path / copy / "configs")
    expected = {path.replace(model, copy) for path in config_files(original.config_dir)}
    assert copied == expected | {f"datamodule/star_easy_{copy}.yaml"}
    experiments = sorted(path.stem for path in (tmp_path / copy / "configs" / "experiment").iterdir())
    for experiment in experiments:
        cfg = load_config([f"experiment={experiment}"], environ={}, cwd=tmp_path)
        twin = load_config([f"experiment={experiment.replace(copy, model)}"], environ={}, cwd=tmp_path)
        assert cfg.loss._target_.startswith(f"{copy}.loss_{copy}.")
        assert to_yaml(cfg).count(copy) >= to_yaml(twin).count(f"{model}.")
        for part in ("trainer", "optimizer", "lr_scheduler", "datamodule"):
            assert OmegaConf.to_container(cfg[part]) == OmegaConf.to_container(twin[part])
        assert set(cfg.collators) == set(twin.collators)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "copy"), COPIES)
def test_a_copy_of_a_model_learns_as_the_model_does(tmp_path: Path, cache: str, model: str, copy: str) -> None:
    run(tmp_path, "xlm-scaffold", copy, "--template", model)
    for path in (tmp_path / copy).rglob("*.py"):
        assert f"{model}." not in path.read_text()
        assert f"_{model}" not in path.read_text()
    results = []
    for name in (copy, model):
        sizes = [f"experiment=star_easy_{name}", f"model=xtiny_{name}", "per_device_batch_size=8", "loggers=debug"]
        limits = ["trainer.max_steps=3", "trainer.val_check_interval=3", "test_after_training=false"]
        parts = ("train.lm", "val.lm", "val.prediction")
        counts = [f"datamodule.dataset_managers.{part}.num_examples=16" for part in parts]
        where = ["trainer_strategy=cpu", f"job_name={name}", f"paths.cache_dir={cache}"]
        printed = run(tmp_path, "xlm", "train", *sizes, *limits, *counts, *where)
        results.append([line for line in printed.splitlines() if line.startswith("step 3 ")])
    assert results[0] == results[1] != []


@pytest.mark.slow
@pytest.mark.parametrize(("model", "copy"), COPIES)
def test_the_tests_of_a_copy_pass(tmp_path: Path, model: str, copy: str) -> None:
    run(tmp_path, "xlm-scaffold", copy, "--template", model, "--layout", "nested")
    printed = run(tmp_path, "python", "-m", "pytest", copy, "-q", "-p", "no:cacheprovider", "-m", "not slow")
    assert " passed" in printed


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """An environment with xlm-core alone, from a wheel; and a folder with a created package of either layout."""
    base = tmp_path_factory.mktemp("scaffold")
    build(PACKAGES[CORE], base / "wheels")
    environment = Environment(base / "venv")
    done = environment.install("--find-links", str(base / "wheels"), CORE)
    assert done.returncode == 0, done.stderr
    created = base / "created"
    created.mkdir()
    for layout in LAYOUTS:
        done = environment.run("xlm-scaffold", f"{layout}_one", "--layout", layout, cwd=created)
        assert done.returncode == 0, done.stderr
    return environment, created


@pytest.mark.slow
def test_a_template_that_is_not_installed(places: tuple[Environment, Path], tmp_path: Path) -> None:
    done = places[0].run("xlm-scaffold", "my_copy", "--template", "ilm", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: No template 'ilm' is installed. There are: minimal. "
        "A model of that name may be available: pip install xlm-ilm. "
        "Nothing was written.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["build", "wheel"])
def test_its_wheel_contains_the_package_and_its_configs(
    places: tuple[Environment, Path], tmp_path: Path, layout: str, way: str
) -> None:
    name = f"{layout}_one"
    source = str(places[1] / name)
    if way == "build":
        printed = run(tmp_path, "python", "-m", "build", "--no-isolation", "--outdir", ".", source)
        assert "is absent from the `packages` configuration" not in printed
    else:
        run(tmp_path, "python", "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "-w", ".", source)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {path for path in archive.namelist() if path.startswith(f"{name}/")}
        (metadata,) = [path for path in archive.namelist() if path.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    package = places[1] / name if layout == "flat" else places[1] / name / name
    files = {path.relative_to(package) for path in package.rglob("*") if path.suffix in (".py", ".yaml", ".typed")}
    apart = {"build", "setup.py", "tests"}
    assert inside == {f"{name}/{path.as_posix()}" for path in files if path.parts[0] not in apart}
    assert "\nVersion: 0.1.0\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text


@pytest.mark.slow
def test_installed_it_is_found_by_its_entry_point_and_by_the_variable(
    places: tuple[Environment, Path], tmp_path: Path
) -> None:
    environment, created = places
    sources = [str(created / f"{layout}_one") for layout in LAYOUTS]
    done = environment.install("--no-deps", *sources)
    assert done.returncode == 0, done.stderr
    listed = environment.run("xlm", "models", cwd=tmp_path, COLUMNS="200")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = [line.split("  ")[0] for line in listed.stdout.splitlines() if "entry point of" in line]
    assert lines == ["flat_one", "nested_one"]
    for name in lines:
        job = environment.run("xlm", "name", f"experiment=star_easy_{name}", "job_name=here", cwd=tmp_path)
        assert job.stdout == "here\n", job.stderr
    both = environment.run("xlm", "models", cwd=tmp_path, COLUMNS="200", XLM_MODELS_PACKAGES="flat_one:nested_one")
    assert both.stdout.count("XLM_MODELS_PACKAGES") == 2, both.stdout + both.stderr
    # From the folder where it was created too: two copies under one name, which is what a person is told.
    conflict = environment.run("xlm", "models", cwd=created, COLUMNS="200")
    assert "Duplicate model name: flat_one" in conflict.stderr


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_editable_install_and_the_folder_are_one_model(
    places: tuple[Environment, Path], tmp_path: Path, layout: str
) -> None:
    environment, _ = places
    name = f"editable_{layout}"
    assert environment.run("xlm-scaffold", name, "--layout", layout, cwd=tmp_path).returncode == 0
    done = environment.install("--no-deps", "--editable", str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    listed = environment.run("xlm", "models", cwd=tmp_path, COLUMNS="200")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith(name)]
    assert "xlm_models.json, entry point of" in line, listed.stdout + listed.stderr
    (tmp_path / "elsewhere").mkdir()
    found = environment.run("xlm", "name", f"experiment=star_easy_{name}", cwd=tmp_path / "elsewhere")
    assert found.returncode == 0, found.stderr
