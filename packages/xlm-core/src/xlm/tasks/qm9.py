"""QM9: the SMILES strings of 130,831 molecules of at most nine heavy atoms, from a package or a file.

Ramakrishnan et al. 2014, "Quantum chemistry structures and properties of 134 kilo molecules".
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xlm.data.file_rows import rows_of_file, type_of_file
from xlm.errors import DataError
from xlm.tasks.corpus_files import CorpusFile
from xlm.utils.text_files import checked_text, read_lines

_PACKAGE, _FILES = "qm9pack", [f"data/qm9_part{number}.csv" for number in (1, 2, 3)]
_COLUMNS = ("smiles", "SMILES", "safe", "SAFE", "text")


class Molecules(CorpusFile):
    """Rows `text`, one SMILES string each.

    The file is a table with a column `smiles` (or `SMILES`, `text`), or has a string at the start of each line (`.smi`,
    `.txt`).
    """

    name = "Molecules"

    def texts_of(self, path: Path) -> Iterator[str]:
        if type_of_file(path) in (".smi", ".txt", ".smiles", ""):
            lines = (line.text.split() for line in read_lines(path))
            return (words[0] for words in lines if words)
        return map(_of_row, rows_of_file(path))


def _of_row(found: Any) -> str:
    column = next((name for name in _COLUMNS if name in found.value), None)
    if column is None:
        raise DataError(f"{found.where}: there is no column smiles or SMILES; it has: {', '.join(found.value)}.")
    return checked_text(found.value[column], column).strip()


class QM9(Molecules):
    """The molecules of the package `qm9pack`; another file by `path`."""

    name = "QM9"

    def default_paths(self) -> list[Path]:
        return package_files()

    @staticmethod
    def source_identity() -> dict[str, str]:
        """The files of the package, by a sample of each."""
        return {path.name: _sample(path) for path in package_files()}


def package_files() -> list[Path]:
    """The tables of all molecules; DataError if their package isn't installed."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        paths = [Path(folder, name) for name in _FILES]
        if all(path.is_file() for path in paths):
            return paths
    raise DataError(
        "The molecules of QM9 come with the package qm9pack, which is not installed here.\n"
        'Install it with: pip install "xlm-core[molecules]", or give a file: corpus_file=PATH.'
    )


def _sample(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(f"{path.stat().st_size} ".encode() + file.read(2**20)).hexdigest()
