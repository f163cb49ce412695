"""Templates: core's own or any model that discovery finds, read and renamed to the new model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from xlm.errors import ScaffoldError, did_you_mean, nearest_names
from xlm.external_models import Discovery, ModelPackage
from xlm.scaffold.names import Renaming, hidden_imports

MINIMAL = "minimal"
TEMPLATE = Path(__file__).resolve().parent / "template" / "template_model"
SUFFIXES = frozenset({".json", ".py", ".pyi", ".txt", ".typed", ".yaml", ".yml"})
# Folders and files beside the package's own code; the scaffold creates its own.
_NOT_COPIED = frozenset({"__pycache__", "build", "configs", "dist", "docs", "runs", "tests"})
_NOT_COPIED_FILES = frozenset({"conftest.py", "setup.py", "xlm_models.json"})
# A model with one of these names cannot be renamed, because the word has other meanings in the same files.
_COMMON_WORDS = frozenset(
    {"batch", "collator", "config", "core", "data", "datamodule", "experiment", "hydra", "infill", "lightning", "lm"}
    | {"loss", "metrics", "model", "models", "network", "noise", "predictor", "seq2seq", "tasks", "text", "tokenizer"}
    | {"torch", "trainer", "training", "types", "unconditional", "utils"}
)


@dataclass(frozen=True)
class Template:
    """A model to copy: its `names` (of the model and the package), and its files as {relative path: text}.

    Paths of `modules` are relative to the package, those of `configs` to the folder that Hydra searches.
    """

    label: str
    names: tuple[str, ...]
    modules: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)


def find_template(label: str, found: Discovery) -> Template:
    """The template `label`: minimal, or a model in `found`; ScaffoldError if there is none."""
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
        raise ScaffoldError(f"Template '{label}': its name '{common[0]}' is too common a word to be replaced.")
    return _read(label, names, model.package_dir, model.config_dir)


def _unknown(label: str, found: Discovery) -> ScaffoldError:
    if label in found.unusable:
        return ScaffoldError(f"Template '{label}' cannot be used. {found.unusable[label].error}")
    there = [MINIMAL, *sorted(found.models)]
    advice = did_you_mean(nearest_names(label, there, 1))
    if label.isidentifier() and not advice:
        advice = f"A model of that name may be available: pip install xlm-{label}."
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


VERSION = "0.1.0"
COMMANDS = "commands.yaml"

_DATAMODULE = """\
# @package _global_
# The data of the experiment: core's star_easy. Settings for this model go here.
defaults:
  - star_easy
"""
_EXPERIMENT = """\
# @package _global_
# A run: data, model and network, and the settings for this combination.
defaults:
  - override /model: NAME
  - override /model_type: NAME
  - override /datamodule: star_easy_NAME
"""


def renamed(template: Template, name: str) -> Template:
    """The template renamed to the model `name`; ScaffoldError if the names clash."""
    try:
        rename = Renaming.of(template.names, name, template.modules)
    except (SyntaxError, ValueError) as error:
        raise ScaffoldError(f"Template '{template.label}' has a module that is not valid Python: {error}.") from error
    modules = {rename(path): _first_version(rename(text)) for path, text in template.modules.items()}
    for path, text in modules.items():
        hidden = sorted(hidden_imports(text)) if path.endswith(".py") else []
        if hidden:
            reason = f"{path} would define {hidden[0]} and import another {hidden[0]}"
            raise ScaffoldError(f"'{name}' causes a name clash: {reason}. Choose another name.", name=name)
    configs = {rename(path): rename(text) for path, text in template.configs.items()}
    shared = sorted(path for path in configs.keys() & template.configs.keys() if path != COMMANDS)
    if shared:
        reason = f"the path configs/{shared[0]} does not contain the model's name, so the copy would have the same path"
        raise ScaffoldError(f"Template '{template.label}' cannot be copied: {reason}.")
    if COMMANDS in configs:
        configs[COMMANDS] = own_jobs(configs[COMMANDS], name)
    return replace(template, names=(name,), modules=modules, configs=with_star_easy(configs, name))


def _first_version(text: str) -> str:
    return re.sub(r'^__version__ = "[^"]*"', f'__version__ = "{VERSION}"', text, flags=re.MULTILINE)


def own_jobs(text: str, name: str) -> str:
    """A commands.yaml with the model's name in every job's name, because two models cannot share a job name."""
    return re.sub(rf"^(?!\w*{name})(\w+)(?=\s*:)", rf"\1_{name}", text, flags=re.MULTILINE)


def with_star_easy(configs: dict[str, str], name: str) -> dict[str, str]:
    """The configs with an experiment and a datamodule star_easy_<name>, if the model can use star graphs."""
    experiment, datamodule = f"experiment/star_easy_{name}.yaml", f"datamodule/star_easy_{name}.yaml"
    fits = f"model/{name}.yaml" in configs and "collators.seq2seq_pred" in configs.get(f"model_type/{name}.yaml", "")
    if experiment not in configs and fits:
        configs = {**configs, experiment: _EXPERIMENT.replace("NAME", name)}
    chosen = configs.get(experiment, "")
    if datamodule in configs or not fits:
        return configs
    chosen = chosen.replace("\n  - star_easy\n", f"\n  - override /datamodule: star_easy_{name}\n", 1)
    return {**configs, experiment: chosen, datamodule: _DATAMODULE}
