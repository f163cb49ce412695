"""One model package on disk: its layout, configs, commands and version, all read without importing it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from xlm.errors import ModelLayoutError, ModelsFileError

UNKNOWN_VERSION = "unknown"


def core_config_dir() -> Path:
    """Core's own configs, the first place that Hydra searches."""
    return Path(__file__).resolve().parent.parent / "configs" / "lightning_train"


def config_dirs_of(folder: Path) -> list[Path]:
    """The config folders in a user's own folder: `configs`, and `configs/lightning_train` as in core."""
    return [path for path in (folder / "configs", folder / "configs" / "lightning_train") if path.is_dir()]


@dataclass(frozen=True)
class ModelPackage:
    """A usable model: where its code and its configs are, and which source listed it.

    `root` is the directory as listed (an installed package's own), `package_dir` the importable package,
    `config_dir` the folder that Hydra searches, `import_root` what must be on sys.path (None: it is already).
    """

    name: str
    root: Path
    source: str
    version: str
    package_dir: Path
    config_dir: Path
    import_root: Path | None = None

    @property
    def import_name(self) -> str:
        """The name to import it by."""
        return self.package_dir.name

    @property
    def provider(self) -> str:
        """The label of this model's configs in Hydra's search path."""
        return f"model '{self.name}' ({self.source})"


def read_directory(name: str, root: Path, source: str) -> ModelPackage:
    """The model in `root`, flat or nested; ModelLayoutError says which part is missing.

    Flat: `root` holds `__init__.py` and `configs/`. Nested: `root` holds `<package>/__init__.py` and
    `configs/`, or `<package>/configs/`.
    """
    if (root / "__init__.py").is_file() and (root / "configs").is_dir():
        package_dir, configs, import_root = root, root / "configs", root.parent
    else:
        package_dir = _nested_package(name, root)
        configs = next((c for c in (root / "configs", package_dir / "configs") if c.is_dir()), root / "configs")
        import_root = package_dir.parent
    if not configs.is_dir():
        raise ModelLayoutError(name, root, "there is no configs/ folder in it or in its package.")
    return ModelPackage(
        name=name,
        root=root,
        source=source,
        version=read_version(package_dir),
        package_dir=package_dir,
        config_dir=search_root(configs),
        import_root=import_root,
    )


def read_installed(name: str, package_dir: Path, source: str, version: str | None) -> ModelPackage:
    """The model in an importable package; its configs must be inside it."""
    configs = package_dir / "configs"
    if not configs.is_dir():
        raise ModelLayoutError(name, package_dir, "there is no configs/ folder in it; does its wheel contain them?")
    return ModelPackage(
        name=name,
        root=package_dir,
        source=source,
        version=version or read_version(package_dir),
        package_dir=package_dir,
        config_dir=search_root(configs),
    )


def search_root(configs: Path) -> Path:
    """The folder of config groups: `configs/lightning_train/` if it exists, as in core, else `configs/`."""
    mirrored = configs / "lightning_train"
    return mirrored if mirrored.is_dir() else configs


def read_version(package_dir: Path) -> str:
    """`__version__` from `__about__.py`, `_version.py` or `__init__.py`, read without importing."""
    for file_name in ("__about__.py", "_version.py", "__init__.py"):
        version = _version_in(package_dir / file_name)
        if version:
            return version
    return UNKNOWN_VERSION


def _nested_package(name: str, root: Path) -> Path:
    """The package directory inside `root`: named like the model or like `root`, else the only one."""
    for candidate in (root / name, root / root.name):
        if (candidate / "__init__.py").is_file():
            return candidate
    packages = sorted(p.parent for p in root.glob("*/__init__.py") if p.parent.name not in ("tests", "configs"))
    if len(packages) == 1:
        return packages[0]
    if (root / "__init__.py").is_file():
        return root  # flat, without configs: the caller reports it
    if packages:
        found = ", ".join(p.name for p in packages)
        raise ModelLayoutError(name, root, f"it has several packages ({found}), and none is named '{name}'.")
    place = root / name if (root / name).is_dir() else root
    raise ModelLayoutError(name, root, f"there is no Python package in it: {place / '__init__.py'} does not exist.")


def _version_in(path: Path) -> str | None:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None  # importing the file will show why it cannot be parsed
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = any(isinstance(target, ast.Name) and target.id == "__version__" for target in targets)
        if named and isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return None


COMMANDS_FILE = "commands.yaml"


_COMMAND_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,99}")
_COMMAND_KEYS = ("target", "help", "kind", "options")
_COMMAND_KINDS = ("composed", "standalone")


def load_commands(model: ModelPackage) -> dict[str, dict[str, str]]:
    """The model's commands by name, each with its `target` and its other entries.

    Empty without a commands.yaml; ModelsFileError if the file cannot be used.
    """
    path = _commands_file(model)
    if path is None:
        return {}
    import yaml  # imported here: most models have no jobs, and listing models should stay fast

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = f"it cannot be read as YAML: {' '.join(str(error).split())}"
        raise ModelsFileError(path, reason, name=model.name) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ModelsFileError(path, "it must be a mapping {job_type: dotted.path}.", name=model.name)
    return {name: _command(model, path, name, entry) for name, entry in content.items()}


def _command(model: ModelPackage, path: Path, name: object, entry: object) -> dict[str, str]:
    """An entry as a mapping; a dotted path alone is a target."""
    given = {"target": entry} if isinstance(entry, str) else entry
    if isinstance(name, str) and not _COMMAND_NAME.fullmatch(name):
        reason = f"{name!r} cannot name a job: use only letters, digits, '_', '-' and '.'."
        raise ModelsFileError(path, reason, name=model.name)
    if not isinstance(name, str) or not isinstance(given, dict) or not isinstance(given.get("target"), str):
        reason = f"the entry {name!r}: {entry!r} must have the form job_type: dotted.path or job_type: {{target: …}}."
        raise ModelsFileError(path, reason, name=model.name)
    for key, value in given.items():
        if key not in _COMMAND_KEYS or not isinstance(value, str):
            reason = f"'{name}' has a bad entry {key!r}. Entries are texts with the keys: {', '.join(_COMMAND_KEYS)}."
            raise ModelsFileError(path, reason, name=model.name)
    if given.get("kind", "composed") not in _COMMAND_KINDS:
        reason = f"the kind of '{name}' is {given['kind']!r}, and must be one of: {', '.join(_COMMAND_KINDS)}."
        raise ModelsFileError(path, reason, name=model.name)
    return dict(given)


def _commands_file(model: ModelPackage) -> Path | None:
    # A model with configs/lightning_train/ may keep the file beside that folder, as documented.
    folders = [model.config_dir]
    if model.config_dir.name == "lightning_train":
        folders.append(model.config_dir.parent)
    return next((folder / COMMANDS_FILE for folder in folders if (folder / COMMANDS_FILE).is_file()), None)
