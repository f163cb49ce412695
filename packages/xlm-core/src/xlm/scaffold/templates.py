"""What a new model starts from: core's own template, or any model that discovery finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xlm.errors import ScaffoldError, did_you_mean, nearest_names
from xlm.external_models import Discovery, ModelPackage

MINIMAL = "minimal"
TEMPLATE = Path(__file__).resolve().parent / "template" / "template_model"
SUFFIXES = frozenset({".json", ".py", ".pyi", ".txt", ".typed", ".yaml", ".yml"})
# What lies in a package's folder and is no part of the package; the scaffold brings its own.
_NOT_COPIED = frozenset({"__pycache__", "build", "configs", "dist", "docs", "runs", "tests"})
_NOT_COPIED_FILES = frozenset({"conftest.py", "setup.py", "xlm_models.json"})
# A model of such a name cannot be renamed: the word has other meanings in the same files.
_COMMON_WORDS = frozenset(
    {"batch", "collator", "config", "core", "data", "datamodule", "experiment", "hydra", "infill", "lightning", "lm"}
    | {"loss", "metrics", "model", "models", "network", "noise", "predictor", "seq2seq", "tasks", "text", "tokenizer"}
    | {"torch", "trainer", "training", "types", "unconditional", "utils"}
)


@dataclass(frozen=True)
class Template:
    """A model to copy: its `names` (as model and as package), and files as {relative path: text}.

    `modules` are relative to the package, `configs` to the folder that Hydra searches.
    """

    label: str
    names: tuple[str, ...]
    modules: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)


def find_template(label: str, found: Discovery) -> Template:
    """The template called `label`: minimal, or a model that discovery `found`; ScaffoldError if there is none."""
    if label == MINIMAL:
        return _read(label, ("template_model",), TEMPLATE, TEMPLATE / "configs")
    model = found.models.get(label)
    if model is None:
        raise _unknown(label, found)
    return _read_model(label, model)


def _read_model(label: str, model: ModelPackage) -> Template:
    names = tuple(dict.fromkeys([model.name, model.import_name]))
    common = [name for name in names if name in _COMMON_WORDS or not name.isidentifier()]
    if common:
        raise ScaffoldError(f"Template '{label}': '{common[0]}' cannot be told from other words, so not be replaced.")
    return _read(label, names, model.package_dir, model.config_dir)


def _unknown(label: str, found: Discovery) -> ScaffoldError:
    if label in found.unusable:
        return ScaffoldError(f"Template '{label}' cannot be used. {found.unusable[label].error}")
    there = [MINIMAL, *sorted(found.models)]
    advice = did_you_mean(nearest_names(label, there, 1))
    if label.isidentifier() and not advice:
        advice = f"A model of that name may be had by: pip install xlm-{label}."
    return ScaffoldError(f"No template '{label}' is installed. There are: {', '.join(there)}. {advice}".rstrip())


def _read(label: str, names: tuple[str, ...], package_dir: Path, config_dir: Path) -> Template:
    try:
        modules = {path.relative_to(package_dir).as_posix(): _text(path) for path in _files(package_dir)}
        yaml = [path for path in sorted(config_dir.rglob("*")) if path.suffix in (".yaml", ".yml") and path.is_file()]
        configs = {path.relative_to(config_dir).as_posix(): _text(path) for path in yaml}
    except (OSError, UnicodeDecodeError) as error:
        raise ScaffoldError(f"Template '{label}' cannot be read: {error}.") from error
    return Template(label, names, modules, configs)


def _files(folder: Path, top: bool = True) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.name not in _NOT_COPIED and not path.name.endswith(".egg-info"):
                yield from _files(path, top=False)
        elif path.suffix in SUFFIXES and not (top and path.name in _NOT_COPIED_FILES):
            yield path


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
