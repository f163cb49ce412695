"""Custom jobs that models bring in configs/commands.yaml: {job_type: dotted.path of a function fn(cfg)}."""

from __future__ import annotations

from pathlib import Path

from xlm.errors import ModelsFileError
from xlm.external_models.package import ModelPackage

FILE_NAME = "commands.yaml"


def load_commands(model: ModelPackage) -> dict[str, str]:
    """The model's jobs, empty without a commands.yaml; ModelsFileError when the file cannot be used."""
    path = _commands_file(model)
    if path is None:
        return {}
    import yaml  # only now: most models bring no jobs, and listing models should stay quick

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = f"it cannot be read as YAML: {' '.join(str(error).split())}"
        raise ModelsFileError(path, reason, name=model.name) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ModelsFileError(path, "a mapping {job_type: dotted.path} is needed.", name=model.name)
    for job_type, target in content.items():
        if not isinstance(job_type, str) or not isinstance(target, str):
            reason = f"the entry {job_type!r}: {target!r} is not of the form job_type: dotted.path."
            raise ModelsFileError(path, reason, name=model.name)
    return dict(content)


def _commands_file(model: ModelPackage) -> Path | None:
    # A model that mirrors core's tree may keep the file beside lightning_train/, where the docs put it.
    folders = [model.config_dir]
    if model.config_dir.name == "lightning_train":
        folders.append(model.config_dir.parent)
    return next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), None)
