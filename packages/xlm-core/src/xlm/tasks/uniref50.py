"""Proteins: the sequences of a FASTA file, such as UniRef50, and a token per amino acid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlm.data.alphabet_tokenizer import alphabet_tokenizer
from xlm.data.trained_tokenizer import TrainedTokenizer
from xlm.errors import DataError
from xlm.tasks.corpus_files import CorpusFile
from xlm.utils.text_files import read_lines

# The twenty amino acids, selenocysteine and pyrrolysine, and the letters for unknown ones (IUPAC).
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWYUOBJZX"
_KNOWN = set(AMINO_ACIDS)


def protein_tokenizer() -> TrainedTokenizer:
    """A token per amino acid; decoding restores any sequence exactly."""
    return alphabet_tokenizer(AMINO_ACIDS)


class Proteins(CorpusFile):
    """Rows `text`, one sequence each, in upper case.

    UniRef50 has a file of 60 million sequences: they are read one after the other, in the order of the file.
    """

    name = "Proteins"

    def texts_of(self, path: Path) -> Iterator[str]:
        """The sequences of a FASTA file, also a compressed one; DataError if a line is not one of FASTA."""
        parts: list[str] = []
        has_header = False
        for line in read_lines(path):
            text = line.text.strip()
            if text.startswith((">", ";")):
                if parts:
                    yield "".join(parts)
                parts, has_header = [], True
            elif text:
                if not has_header:
                    raise DataError(f"{line.where}: a FASTA file begins with a line '>name', not {text[:20]!r}.")
                letters = text.upper().rstrip("*")  # the end of a translation
                if other := set(letters) - _KNOWN:
                    raise DataError(
                        f"{line.where}: {min(other)!r} is not an amino acid; the letters are {AMINO_ACIDS}."
                    )
                parts.append(letters)
        if parts:
            yield "".join(parts)
