"""The files of a new project: the renamed package, and packaging, licence, README, tests and a workflow around it."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path, PurePosixPath

from xlm.__about__ import __version__
from xlm.errors import ScaffoldError
from xlm.scaffold.templates import Template

LAYOUTS = ("flat", "nested")
LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "none": None}


@dataclass(frozen=True)
class Request:
    """The options for a new model `name` in `output_dir` (absolute); ScaffoldError for texts of several lines.

    In the flat layout the folder `name` is the package, in the nested one it contains it. `license` is a key of
    LICENSES.
    """

    name: str
    output_dir: Path
    template: str = "minimal"
    layout: str = "flat"
    description: str = ""
    author: str = ""
    license: str = "apache-2.0"

    def __post_init__(self) -> None:
        for option in ("description", "author"):
            text = getattr(self, option)
            # isprintable also rejects lone surrogates, which cannot be written to a file.
            if not text.isprintable():
                raise ScaffoldError(f"--{option} must be one line of text without control characters.")

    @property
    def root(self) -> Path:
        """The folder that will be created."""
        return self.output_dir / self.name

    def shown(self, path: Path) -> str:
        """`path` relative to the current directory if it is inside it."""
        relative = os.path.relpath(path)
        return str(path) if relative.startswith("..") else relative


_HERE = Path(__file__).resolve().parent
# The place of each file of project/ in the new project.
_PLACES = {
    "pyproject.toml.in": "pyproject.toml",
    "setup.py.in": "setup.py",
    "README.md.in": "README.md",
    "gitignore.in": ".gitignore",
    "test.py.in": "tests/test_{name}.py",
    "workflow.yaml.in": ".github/workflows/test.yml",
}
# For setup.py of the flat layout, where the project's folder is the package itself.
_FLAT = """\
    package_dir={{"{name}": "."}},
    script_name="setup.py",  # known by its name, this file is left out of the package
"""
_PARTS = ("types", "model", "loss", "predictor", "datamodule", "metrics")


def project_files(request: Request, template: Template) -> dict[str, str]:
    """All files of the project as {path relative to its folder: text}; `template` is already renamed."""
    prefix = "" if request.layout == "flat" else f"{request.name}/"
    files = {f"{prefix}{path}": text for path, text in template.modules.items()}
    files |= {f"{prefix}configs/{path}": text for path, text in template.configs.items()}
    values = _values(request, template, prefix)
    for source, place in _PLACES.items():
        files[place.format(name=request.name)] = fill((_HERE / "project" / source).read_text(encoding="utf-8"), values)
    if request.license != "none":
        text = (_HERE / "licenses" / f"{request.license}.txt").read_text(encoding="utf-8")
        files["LICENSE"] = fill(text, values)
    return files


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `@key@` replaced by its value; values are not searched for keys."""
    return re.sub(r"@(\w+)@", lambda match: values.get(match.group(1), match.group()), text)


def _values(request: Request, template: Template, prefix: str) -> dict[str, str]:
    name = request.name
    description = request.description.strip() or f"The language model {name} for XLM"
    author = request.author.strip()
    spdx = LICENSES[request.license]
    return {
        "name": name,
        "template": request.template,
        "description": description,
        "description_quoted": _quoted(description),
        "author_lines": f"authors = [{_author(author)}]\n" if author else "",
        "license_lines": f'license = "{spdx}"\nlicense-files = ["LICENSE"]\n' if spdx else "",
        "license_note": f"\nLicence: {spdx}." if spdx else "",
        "holder": author or f"the authors of {name}",
        "year": str(date.today().year),
        "dependencies": _list(requirements(template)),
        "packages": _list(_packages(name, template), indent="    "),
        "package_dir": _FLAT.format(name=name) if request.layout == "flat" else "",
        "package_data": _list(_package_data(template), indent=" " * 8),
        "version_attr": f"{_version_module(name, template)}.__version__",
        "configs_folder": f"{prefix}configs",
        "experiment": _experiment(name, template),
        "file_rows": "".join(_row(part, name, prefix, template) for part in _PARTS),
    }


def requirements(template: Template) -> list[str]:
    """The distributions that the modules import, and the compatible releases of xlm-core."""
    major, minor = __version__.split(".")[:2]
    owners = _owners()
    found: set[str] = set()
    for path, text in template.modules.items():
        for name in _imported(text) if path.endswith(".py") else ():
            if name not in ("xlm", *template.names, *sys.stdlib_module_names):
                found |= {owner.lower() for owner in owners.get(name, [name])[:1]}
    return [f"xlm-core>={major}.{minor},<{int(major) + 1}", *sorted(found)]


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """The distributions of each importable package; slow, because it reads all installed metadata."""
    return metadata.packages_distributions()


def _imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _packages(name: str, template: Template) -> list[str]:
    folders = {PurePosixPath(path).parent for path in template.modules if path.endswith("__init__.py")}
    return sorted(".".join([name, *folder.parts]) for folder in folders | {PurePosixPath(".")})


def _package_data(template: Template) -> list[str]:
    others = [path for path in template.modules if not path.endswith((".py", "py.typed"))]
    return ["configs/**/*.yaml", "configs/**/*.yml", "py.typed", *sorted(others)]


def _version_module(name: str, template: Template) -> str:
    """The module with `__version__` as a literal, which the build reads without importing the package."""
    return f"{name}.__about__" if "__about__.py" in template.modules else name


def _experiment(name: str, template: Template) -> str:
    names = sorted(Path(path).stem for path in template.configs if path.startswith("experiment/"))
    wanted = f"star_easy_{name}"
    return wanted if wanted in names else next(iter(names), wanted)


def _row(part: str, name: str, prefix: str, template: Template) -> str:
    path = f"{part}_{name}.py"
    if path not in template.modules:
        return ""
    first = (ast.get_docstring(ast.parse(template.modules[path])) or "").partition("\n")[0]
    return f"| `{prefix}{path}` | {first.replace('|', '')} |\n"


def _author(text: str) -> str:
    """`Name <address>` or a name as a TOML table."""
    match = re.fullmatch(r"(.*\S)\s*<([^<>@\s]+@[^<>@\s]+)>", text)
    if not match:
        return f"{{name = {_quoted(text)}}}"
    return f"{{name = {_quoted(match[1])}, email = {_quoted(match[2])}}}"


def _quoted(text: str) -> str:
    """A TOML string; for printable text the syntax is that of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _list(items: Iterable[str], indent: str = "") -> str:
    """A list of strings in the syntax of TOML and Python, on one line if it is short."""
    quoted = [_quoted(item) for item in items]
    line = f"[{', '.join(quoted)}]"
    if len(line) <= 80:
        return line
    return "[\n" + "".join(f"{indent}    {item},\n" for item in quoted) + f"{indent}]"
