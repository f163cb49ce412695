"""Names: which ones a model can have, and how one model's name is replaced by another's in its files."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from xlm.errors import ScaffoldError

MAX_LENGTH = 64  # names become part of file names and of runs' folders
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Folders and files beside or inside a package, and names that occur in the template itself.
RESERVED = frozenset({"build", "configs", "conftest", "dist", "setup", "template_model", "tests", "xlm", "xlm_models"})


def camel(name: str) -> str:
    """The name in camel case, as class names use it: `my_model` becomes `MyModel`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(name: str) -> None:
    """ScaffoldError if `name` is not a valid name, or is taken by Python or by a package of this environment."""
    check_spelling(name)
    if name in sys.stdlib_module_names:
        raise _refused(name, f"'{name}' is a module of Python's standard library.")
    if name in RESERVED:
        raise _refused(name, f"'{name}' is reserved.")
    if _is_importable(name):
        raise _refused(name, f"'{name}' is taken: `import {name}` imports a package of this environment.")
    distribution = _installed_distribution(name)
    if distribution:
        raise _refused(name, f"'{name}' is taken: pip would replace the installed distribution {distribution} with it.")


def check_spelling(name: str) -> None:
    """ScaffoldError unless `name` is a lower-case ASCII identifier and not a keyword."""
    if not _NAME.fullmatch(name):
        shown = name if name.isprintable() else ascii(name)[1:-1]
        reason = "lower-case letters, digits and '_' only, a letter first"
        raise _refused(name, f"'{shown[:100]}' cannot name a Python package: {reason}.")
    if len(name) > MAX_LENGTH:
        raise _refused(name, f"A name of {len(name)} characters is too long: {MAX_LENGTH} at most.")
    if keyword.iskeyword(name):
        raise _refused(name, f"'{name}' is a keyword of Python.")


def suggestion(name: str) -> str:
    """A valid name similar to `name`, neither reserved nor a module of the standard library."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    text = re.sub(r"[^a-z0-9]+", "_", text).strip("_")
    if not text:
        return "my_model"
    if not text[0].isalpha():
        text = f"model_{text}"
    text = text[: MAX_LENGTH - len("_model")].rstrip("_")
    # A name that is taken gets a suffix.
    taken = keyword.iskeyword(text) or text in sys.stdlib_module_names or text in RESERVED or text == name
    return f"{text}_model" if taken else text


def _refused(name: str, reason: str) -> ScaffoldError:
    return ScaffoldError(f"{reason} For instance: {suggestion(name)}.", name=name)


def _is_importable(name: str) -> bool:
    """Whether Python finds a module; folders without `__init__.py` don't count, because packages take precedence."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _installed_distribution(name: str) -> str | None:
    """The installed distribution that pip treats as the same name, or None."""
    try:
        return metadata.distribution(name.replace("_", "-")).name
    except (metadata.PackageNotFoundError, ValueError):
        return None


_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Renaming:
    """Replaces the names `old` of a model by `new` in paths and texts.

    `mlm` is replaced as a whole part of an identifier or path (`lm_mlm`, `mlm.loss_mlm`, `xlm-mlm`). Capitalized
    (`MLM`, `Mlm`) it is replaced as a whole word, and inside the names in `defined`, which the package itself
    defines. So a model called lm does not change `XLMError`.
    """

    old: tuple[str, ...]
    new: str
    defined: frozenset[str]

    @classmethod
    def of(cls, old: Iterable[str], new: str, modules: Mapping[str, str]) -> Renaming:
        """The renaming for a package with `modules` as {path: source}; SyntaxError if one cannot be parsed."""
        found = {name for path, text in modules.items() if path.endswith(".py") for name in defined_names(text)}
        return cls(tuple(sorted(set(old), key=lambda name: (-len(name), name))), new, frozenset(found))

    def __call__(self, text: str) -> str:
        """`text` with every occurrence replaced once; the new name is not searched again."""
        plain = "|".join(re.escape(name) for name in self.old)
        pattern = rf"(?<![A-Za-z0-9])(?:xlm[-_])?(?:{plain})(?![A-Za-z0-9])"
        parts = re.split(f"({pattern})", text)
        return "".join(self.new if i % 2 else _WORD.sub(self._class_name, part) for i, part in enumerate(parts))

    def _class_name(self, match: re.Match[str]) -> str:
        word = match.group()
        for old in self.old:
            for form in (old.upper(), camel(old)):
                if word == form:
                    return camel(self.new)
                if word in self.defined and form in word:
                    return word.replace(form, self.new.upper() if word.isupper() else camel(self.new))
        return word


def defined_names(source: str) -> set[str]:
    """The names of all classes and functions and of the module's variables that a Python source defines."""
    tree = ast.parse(source)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def hidden_imports(source: str) -> set[str]:
    """Names that a Python source both imports and defines as a class; the class hides the import."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    return imported & {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
