"""Imports go down only: layers of xlm-core, core without models, models without each other."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from workspace import CORE, ROOT, read_packages

# Each module or folder directly below xlm. A module imports from its own layer and the ones below.
LAYERS: dict[str, int] = {
    "__about__": 0, "configs": 0, "errors": 0, "flags": 0, "moved": 0, "protocols": 0,
    "noise": 1, "sampling": 1, "schemas": 1, "utils": 1,
    "data": 2, "decoding": 2, "log_predictions": 2, "masked": 2, "metrics": 2, "model": 2, "modules": 2,
    "evaluation": 3, "reports": 3, "tasks": 3, "traces": 3, "training": 3,
    "datamodule": 4, "harness": 4,
    "external_models": 5, "compose": 6,
    "inference": 7,
    "lm_eval": 8, "testing": 8,
    "commands": 9,
    "__init__": 10, "__main__": 10, "cli": 10, "scaffold": 10,
}  # fmt: skip
TOP_FOR_MODELS = 4
# A model package inside core: the scaffold copies it, so it lives by the rules of models.
TEMPLATE = ("xlm", "scaffold", "template")

PACKAGES = read_packages(ROOT)
OURS = {p.import_name for p in PACKAGES.values()}


def only_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported at run time, inside functions too.

    `from a import b` gives a.b; `package` is what relative imports start from.
    """
    for node in ast.iter_child_nodes(tree):
        if only_for_types(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)
        else:
            yield from imports(node, package)


def breaches(source: Path, import_name: str) -> list[str]:
    """Arrows in one package's sources that point up or sideways, as `file:line imports name`."""
    found = []
    for file in sorted((source / import_name).rglob("*.py")):
        module = file.relative_to(source).with_suffix("").parts
        if module[: len(TEMPLATE)] == TEMPLATE:
            module = module[len(TEMPLATE) :]
        folder = ".".join(module[:-1])
        for line, name in imports(ast.parse(file.read_text(encoding="utf-8")), folder):
            if not allowed(module, name.split(".")):
                found.append(f"{file.relative_to(source)}:{line} imports {name}")
    return found


def allowed(module: tuple[str, ...], target: list[str]) -> bool:
    """Whether a module (its dotted parts) may import a name."""
    if target[0] not in OURS or (target[0] == module[0] != "xlm"):
        return True
    if target[0] != "xlm":
        return False
    if len(target) == 1 or target[1] not in LAYERS:
        return target[1:] in ([], ["__version__"])
    top = TOP_FOR_MODELS if module[0] != "xlm" else LAYERS.get(module[1], -1)
    return LAYERS[target[1]] <= top


@pytest.mark.parametrize("name", PACKAGES)
def test_arrows_point_down(name: str) -> None:
    package = PACKAGES[name]
    assert breaches(package.path / "src", package.import_name) == []


def test_no_modules_of_core_import_each_other_in_a_circle() -> None:
    source = PACKAGES[CORE].path / "src"
    files = {".".join(f.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): f
             for f in (source / "xlm").rglob("*.py") if "template" not in f.parts}  # fmt: skip
    needed: dict[str, set[str]] = {}
    for module, file in files.items():
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        names = {name for _, name in imports(ast.parse(file.read_text(encoding="utf-8")), package)}
        needed[module] = {name if name in files else name.rpartition(".")[0] for name in names} & (
            files.keys() - {module}
        )
    assert list(TopologicalSorter(needed).static_order())  # CycleError names the circle


def test_every_module_of_core_has_a_layer() -> None:
    folder = PACKAGES[CORE].path / "src/xlm"
    names = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert names <= LAYERS.keys(), "say in LAYERS where it belongs"


def test_no_config_of_core_names_a_model_package() -> None:
    models = OURS - {"xlm"}
    for file in (PACKAGES[CORE].path / "src").rglob("*.yaml"):
        values = [line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if ":" in line]
        named = [value for value in values if value.split(".")[0] in models and "." in value]
        assert not named, f"{file} names {named}"


@pytest.mark.parametrize(
    ("file", "code", "found"),
    [
        ("xlm/harness.py", "import xlm.data.cache", False),
        ("xlm/harness.py", "from xlm import datamodule", False),
        ("xlm/harness.py", "from xlm.cli.main import main", True),
        ("xlm/harness.py", "from xlm import jobs", True),
        ("xlm/harness.py", "from . import jobs", True),
        ("xlm/data/cache.py", "from .. import harness", True),
        ("xlm/data/cache.py", "from ..errors import XLMError", False),
        ("xlm/data/cache.py", "from .rows import x", False),
        ("xlm/data/cache.py", "def f():\n    import xlm.training.ema", True),
        ("xlm/errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import xlm.harness", False),
        ("xlm/errors.py", "from xlm import __version__", False),
        ("xlm/errors.py", "import xlm.nowhere", True),
        ("xlm/cli/main.py", "import arlm", True),
        ("arlm/loss_arlm.py", "import arlm.model_arlm, torch, xlm.harness", False),
        ("arlm/loss_arlm.py", "from xlm.compose import compose", True),
        ("xlm/scaffold/template/toy/loss_toy.py", "import toy.model_toy, torch, xlm.harness", False),
        ("xlm/scaffold/template/toy/loss_toy.py", "from xlm.compose import compose", True),
        ("xlm/scaffold/plan.py", "from xlm.compose import compose", False),
    ],
)
def test_the_check_itself(tmp_path: Path, file: str, code: str, found: bool) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    assert bool(breaches(tmp_path, file.split("/")[0])) == found


def test_models_never_import_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.OURS", {"xlm", "arlm", "ilm"})
    (tmp_path / "ilm").mkdir()
    (tmp_path / "ilm/loss_ilm.py").write_text("import arlm\n")
    assert breaches(tmp_path, "ilm") == ["ilm/loss_ilm.py:1 imports arlm"]
