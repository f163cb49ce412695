"""Which names a model can have: how they are spelt, what is taken, and what to choose instead."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
import unicodedata
from importlib import metadata

from xlm.errors import ScaffoldError

MAX_LENGTH = 64  # a name becomes part of file names and of runs' folders
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Folders and files that stand beside a package or in it, and the names that a template's own parts have.
RESERVED = frozenset({"build", "configs", "conftest", "dist", "setup", "template_model", "tests", "xlm", "xlm_models"})


def camel(name: str) -> str:
    """`my_model` as the beginning of a class's name: `MyModel`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(name: str) -> None:
    """ScaffoldError if `name` is spelt as no model can be, or is Python's or this environment's own."""
    check_spelling(name)
    if name in sys.stdlib_module_names:
        raise _refused(name, f"'{name}' is a module of Python's standard library: `import {name}` finds that.")
    if name in RESERVED:
        raise _refused(name, f"'{name}' has a meaning of its own beside a model package.")
    if _is_importable(name):
        raise _refused(name, f"'{name}' is taken: `import {name}` finds a package of this environment.")
    distribution = _installed_distribution(name)
    if distribution:
        raise _refused(name, f"'{name}' is taken: pip would replace the installed distribution {distribution} by it.")


def check_spelling(name: str) -> None:
    """ScaffoldError unless `name` is a lower-case ASCII identifier that is no keyword."""
    if not _NAME.fullmatch(name):
        shown = name if name.isprintable() else ascii(name)[1:-1]
        reason = "lower-case letters, digits and '_' only, a letter first"
        raise _refused(name, f"'{shown[:100]}' cannot name a Python package: {reason}.")
    if len(name) > MAX_LENGTH:
        raise _refused(name, f"A name of {len(name)} characters is too long: {MAX_LENGTH} at most.")
    if keyword.iskeyword(name):
        raise _refused(name, f"'{name}' is a keyword of Python.")


def suggestion(name: str) -> str:
    """A name like `name` that is well spelt, no module of the standard library and not reserved."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    text = re.sub(r"[^a-z0-9]+", "_", text).strip("_")
    if not text:
        return "my_model"
    if not text[0].isalpha():
        text = f"model_{text}"
    text = text[: MAX_LENGTH - len("_model")].rstrip("_")
    # A word that is taken as it stands becomes a name of its own.
    taken = keyword.iskeyword(text) or text in sys.stdlib_module_names or text in RESERVED or text == name
    return f"{text}_model" if taken else text


def _refused(name: str, reason: str) -> ScaffoldError:
    return ScaffoldError(f"{reason} For instance: {suggestion(name)}.", name=name)


def _is_importable(name: str) -> bool:
    """Whether Python finds a module; folders without `__init__.py` don't count, a real package wins over them."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _installed_distribution(name: str) -> str | None:
    """The name, as it is installed, of a distribution that pip takes for the same."""
    try:
        return metadata.distribution(name.replace("_", "-")).name
    except (metadata.PackageNotFoundError, ValueError):
        return None
