"""A template's files as those of another model: renamed, in a first version, with an experiment on star graphs."""

from __future__ import annotations

import re
from dataclasses import replace

from xlm.errors import ScaffoldError
from xlm.scaffold.rename import Renaming, hidden_imports
from xlm.scaffold.templates import Template

VERSION = "0.1.0"
COMMANDS = "commands.yaml"

_DATAMODULE = """\
# @package _global_
# The data of the experiment: core's star_easy. What only this model needs of it goes here.
defaults:
  - star_easy
"""
_EXPERIMENT = """\
# @package _global_
# A run: which data, which model, which network, and the settings that belong to this choice.
defaults:
  - override /model: NAME
  - override /model_type: NAME
  - override /datamodule: star_easy_NAME
"""


def renamed(template: Template, name: str) -> Template:
    """The template as the model `name`; ScaffoldError if that doesn't work out."""
    try:
        rename = Renaming.of(template.names, name, template.modules)
    except (SyntaxError, ValueError) as error:
        raise ScaffoldError(f"Template '{template.label}' is no Python that can be read: {error}.") from error
    modules = {rename(path): _first_version(rename(text)) for path, text in template.modules.items()}
    for path, text in modules.items():
        hidden = sorted(hidden_imports(text)) if path.endswith(".py") else []
        if hidden:
            reason = f"{path} would define {hidden[0]} and import another {hidden[0]}"
            raise ScaffoldError(f"'{name}' leads to a clash: {reason}. Choose another name.", name=name)
    configs = {rename(path): rename(text) for path, text in template.configs.items()}
    shared = sorted(path for path in configs.keys() & template.configs.keys() if path != COMMANDS)
    if shared:
        reason = f"its configs/{shared[0]} does not carry its name, and Hydra takes only one file of a name"
        raise ScaffoldError(f"Template '{template.label}' cannot be copied: {reason}.")
    if COMMANDS in configs:
        configs[COMMANDS] = own_jobs(configs[COMMANDS], name)
    return replace(template, names=(name,), modules=modules, configs=with_star_easy(configs, name))


def _first_version(text: str) -> str:
    return re.sub(r'^__version__ = "[^"]*"', f'__version__ = "{VERSION}"', text, flags=re.MULTILINE)


def own_jobs(text: str, name: str) -> str:
    """A commands.yaml whose jobs all carry the model's name: two models must not bring a job of one name."""
    return re.sub(rf"^(?!\w*{name})(\w+)(?=\s*:)", rf"\1_{name}", text, flags=re.MULTILINE)


def with_star_easy(configs: dict[str, str], name: str) -> dict[str, str]:
    """The configs with experiment/star_easy_<name> and the datamodule of that name, if the model takes such data."""
    experiment, datamodule = f"experiment/star_easy_{name}.yaml", f"datamodule/star_easy_{name}.yaml"
    fits = f"model/{name}.yaml" in configs and "collators.seq2seq_pred" in configs.get(f"model_type/{name}.yaml", "")
    if experiment not in configs and fits:
        configs = {**configs, experiment: _EXPERIMENT.replace("NAME", name)}
    chosen = configs.get(experiment, "")
    if datamodule in configs or not fits:
        return configs
    chosen = chosen.replace("\n  - star_easy\n", f"\n  - override /datamodule: star_easy_{name}\n", 1)
    return {**configs, experiment: chosen, datamodule: _DATAMODULE}
