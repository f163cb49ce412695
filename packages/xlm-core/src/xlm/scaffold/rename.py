"""From one model's name to another, in paths and in texts, wherever it is an identifier and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xlm.scaffold.names import camel

_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Renaming:
    """Replaces the names `old` of a model by `new`.

    `mlm` is replaced where a whole part of an identifier or path is called so (`lm_mlm`, `mlm.loss_mlm`, `xlm-mlm`).
    In capitals (`MLM`, `Mlm`) it is replaced as a word of its own, and inside names that `defined` lists: what the
    package itself defines. So `XLMError` survives a model that is called lm.
    """

    old: tuple[str, ...]
    new: str
    defined: frozenset[str]

    @classmethod
    def of(cls, old: Iterable[str], new: str, modules: Mapping[str, str]) -> Renaming:
        """The renaming for a package whose `modules` are {path: source}; they must parse."""
        found = {name for path, text in modules.items() if path.endswith(".py") for name in defined_names(text)}
        return cls(tuple(sorted(set(old), key=lambda name: (-len(name), name))), new, frozenset(found))

    def __call__(self, text: str) -> str:
        """`text` with every occurrence replaced; what was put in is not looked at again."""
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
    """The names of classes and functions, and the variables of the module, that a Python source defines."""
    tree = ast.parse(source)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def hidden_imports(source: str) -> set[str]:
    """Names that a Python source imports and then defines a class of: only one of the two can be meant."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    return imported & {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
