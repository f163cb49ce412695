"""Workflows do what the packages declare: each system and Python, scripts that exist, no more rights than needed."""

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mutants import TARGETS
from workspace import ROOT, read_packages

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
PACKAGES = read_packages(ROOT)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def jobs() -> list[Any]:
    found = [(file, name, job) for file in FILES for name, job in load(file.name)["jobs"].items()]
    return [pytest.param(file.name, job, id=f"{file.stem}-{name}") for file, name, job in found]


def declared_pythons() -> list[str]:
    """Every Python version that all packages say they support, oldest first."""
    found = set()
    for package in PACKAGES.values():
        project = tomllib.loads((package.path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        versions = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
        found.add((*versions, project["requires-python"]))
    assert len(found) == 1, "the packages support different versions of Python"
    *versions, required = found.pop()
    assert required == f">={versions[0]}"
    return versions


@pytest.mark.parametrize(("workflow", "job"), [("ci.yml", "core"), ("ci.yml", "model"), ("release.yml", "try")])
def test_both_systems_and_the_oldest_and_newest_python(workflow: str, job: str) -> None:
    matrix = load(workflow)["jobs"][job]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    pythons = declared_pythons()
    assert matrix["python"] == [pythons[0], pythons[-1]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_actions_are_pinned_by_their_hash(file: Path) -> None:
    uses = [line.split("uses:")[1].strip() for line in file.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_one_action_has_one_version() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in FILES)
    pins = set(re.findall(r"uses: (\S+)@([0-9a-f]+)", text))
    assert len(pins) == len({action for action, _ in pins})


@pytest.mark.parametrize(("workflow", "job"), jobs())
def test_a_job_has_an_end_and_no_rights_that_it_was_not_given(workflow: str, job: dict[str, Any]) -> None:
    assert load(workflow)["permissions"] == {}
    assert job["timeout-minutes"] <= 60
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
            assert job["permissions"] == {"contents": "read"}


def test_every_target_of_mutation_testing_is_run() -> None:
    assert load("mutants.yml")["jobs"]["mutants"]["strategy"]["matrix"]["target"] == list(TARGETS)


def test_only_publishing_gets_a_token_for_the_index() -> None:
    release = load("release.yml")["jobs"]
    assert [name for name, job in release.items() if "id-token" in job.get("permissions", {})] == ["publish"]
    publish = release["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "${{ needs.build.outputs.package }}"
    assert set(publish["needs"]) == {"build", "try"}
    assert len(publish["steps"]) == 2, "what was built and tried is uploaded, and nothing is run here"


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_the_tag_of_every_package_starts_a_release(package: Any) -> None:
    (pattern,) = load("release.yml")[True]["push"]["tags"]  # YAML reads the key `on` as true
    assert fnmatch.fnmatchcase(f"{package.name}-v{package.version}", pattern)
    assert not fnmatch.fnmatchcase(f"v{package.version}", pattern)


def test_every_script_that_is_run_exists() -> None:
    environments = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]
    texts = [file.read_text(encoding="utf-8") for file in [*FILES, ROOT / ".ci" / "run"]]
    runs = re.findall(r'hatch run "?(?:([\w$]+)(?:\.\$\w+)?:)?([\w-]+)', "\n".join(texts))
    assert len(runs) > 10
    for environment, script in runs:
        assert script in environments[environment or "default"]["scripts"], f"{environment}:{script}"


def test_branch_protection_waits_for_every_job() -> None:
    ci = load("ci.yml")["jobs"]
    assert set(ci["green"]["needs"]) == set(ci) - {"green"}
    assert ci["green"]["if"] == "always()"


def test_the_local_run_does_what_ci_does_for_every_change() -> None:
    steps = load("ci.yml")["jobs"]["whole"]["steps"]
    every_change = [step for step in steps if "== 'schedule'" not in step.get("if", "")]
    whole = [step["run"] for step in every_change if "hatch run" in step.get("run", "")]
    assert "hatch run test-all" in [step.get("run") for step in steps if step not in every_change]
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert whole
    assert [command for command in whole if f"step {command}\n" not in local] == []
