"""Model packages that live outside core: where they are found, and how they become usable."""

from xlm.errors import ExternalModelConflictError, ExternalModelError
from xlm.external_models.activation import activate, active_config_dirs, active_models
from xlm.external_models.discovery import Discovery, Unusable, discover, find_model, find_models
from xlm.external_models.package import ModelPackage, core_config_dir, load_commands

__all__ = [
    "Discovery",
    "ExternalModelConflictError",
    "ExternalModelError",
    "ModelPackage",
    "Unusable",
    "activate",
    "active_config_dirs",
    "active_models",
    "core_config_dir",
    "discover",
    "find_model",
    "find_models",
    "load_commands",
]
