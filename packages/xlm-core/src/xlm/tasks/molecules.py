"""Molecules as SMILES: their tokens, and validity, uniqueness, novelty and Fréchet ChemNet distance of samples."""

from __future__ import annotations

import math
import string
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any

from xlm.data.alphabet_tokenizer import alphabet_tokenizer
from xlm.data.steps import plain
from xlm.data.trained_tokenizer import TrainedTokenizer
from xlm.errors import ConfigError
from xlm.log_predictions import Row
from xlm.utils.imports import get_function
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)

# Elements of two letters outside brackets, @@, and numbers of rings above 9 are one token each, everything else a
# character. So any SMILES or SAFE string can be written.
PATTERN = r"Cl|Br|@@|%[0-9][0-9]|."
_MARKS = "()[]=#$:/\\.-+@*~%"
SYMBOLS = (
    "Cl", "Br", "@@", *string.ascii_letters, *string.digits, *_MARKS, *(f"%{number}" for number in range(10, 100)),
)  # fmt: skip

Canonical = Callable[[str], str | None]

# With fewer samples, the Fréchet distance says more about their number than about the molecules.
FEWEST_FOR_FCD = 500


def smiles_tokenizer() -> TrainedTokenizer:
    """A token per atom, bond, bracket and ring number; decoding restores any SMILES string exactly."""
    return alphabet_tokenizer(SYMBOLS, PATTERN)


def has_rdkit() -> bool:
    """Whether the library that decides about validity is installed."""
    return find_spec("rdkit") is not None


def canonical_smiles(smiles: str) -> str | None:
    """RDKit's canonical SMILES of a molecule, the same for every way to write it; None if it is not a valid one."""
    from rdkit import Chem, rdBase

    rdBase.DisableLog("rdApp.*")  # one line for each invalid string
    molecule = Chem.MolFromSmiles(smiles) if smiles else None
    return None if molecule is None or molecule.GetNumAtoms() == 0 else str(Chem.MolToSmiles(molecule))


class ReferenceMolecules:
    """The Fréchet ChemNet distance (Preuer et al. 2018, arXiv 1803.09518) from reference molecules.

    It compares mean and covariance of ChemNet's activations, 512 numbers for each molecule, so it also depends on the
    numbers of samples and references: only distances of equal numbers can be compared.

    Args:
        smiles: canonical SMILES of the references.
    """

    def __init__(self, smiles: Sequence[str]) -> None:
        self.smiles = list(smiles)
        self._moments: tuple[Any, Any] | None = None

    def distance(self, samples: Sequence[str]) -> float:
        """The distance of samples, as canonical SMILES, from the references; 0 or above."""
        from fcd import calculate_frechet_distance

        with warnings.catch_warnings():
            # fcd 1.2.2 calls older names of numpy and scipy, and leaves a temporary folder to the garbage collector.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            self._moments = self._moments or _moments(self.smiles)
            (mean, covariance), (other_mean, other_covariance) = _moments(samples), self._moments
            found = calculate_frechet_distance(mean, covariance, other_mean, other_covariance)
        return max(0.0, float(found))


def _moments(smiles: Sequence[str]) -> tuple[Any, Any]:
    """Mean (512,) and covariance (512, 512) of ChemNet's activations."""
    import numpy as np
    from fcd import get_predictions, load_ref_model

    activations = get_predictions(load_ref_model(), list(smiles), n_jobs=0)
    return activations.mean(axis=0), np.cov(activations.T)


class MoleculeSamples:
    """A post-hoc evaluator of unconditional samples: shares of valid, unique and novel molecules.

    `validity` is the share of samples that are molecules; `uniqueness` the number of different molecules by the
    number of valid samples; `novelty` the share of the different molecules that are not in the training data. As in
    MOSES (Polykovskiy et al. 2020), strings are compared in their canonical form. Each row gets `valid`. `fcd` is the
    Fréchet ChemNet distance of the valid samples from molecules of the test data, if there are at least FEWEST_FOR_FCD
    of both.

    Args:
        reader, options: the class of the corpus and its arguments, for the training data.
        canonical: the canonical form of a string, or None if it is not valid; by default that of RDKit. Without RDKit
            only `unique_strings` and `novel_strings` are measured, of the strings as they are.
        fcd_references: molecules of the test data from which the distance is measured; None: it is not measured.

    Raises:
        ConfigError: `fcd_references` without the packages that it needs, or fewer than FEWEST_FOR_FCD.
    """

    def __init__(
        self,
        reader: str,
        options: Mapping[str, Any] | None = None,
        canonical: str | Canonical | None = None,
        fcd_references: int | None = None,
    ) -> None:
        self.reader, self.options = reader, plain(options or {})
        self.canonical: Canonical | None = get_function(canonical) if isinstance(canonical, str) else canonical
        if self.canonical is None and has_rdkit():
            self.canonical = canonical_smiles
        if self.canonical is None:
            log.warning('The validity of molecules needs RDKit: pip install "xlm-core[molecules]".')
        if fcd_references is not None:
            _check_references(fcd_references)
        self.fcd_references = fcd_references
        self._references: ReferenceMolecules | None = None
        self._known: dict[bool, set[str]] = {}

    def mark(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of one batch with `valid`, if that can be decided."""
        if self.canonical is None:
            return list(rows)
        return [row if "valid" in row else {**row, "valid": self.canonical(_text(row)) is not None} for row in rows]

    def eval(self, predictions: list[Row], tokenizer: Any = None, **_: Any) -> tuple[list[Row], dict[str, float]]:
        """All rows, and the shares."""
        texts = [_text(row) for row in predictions]
        if not texts:
            return predictions, {}
        if self.canonical is None:
            distinct = set(texts)
            return predictions, {
                "unique_strings": len(distinct) / len(texts),
                "novel_strings": len(distinct - self._training(None)) / len(distinct),
            }
        valid = [form for text in texts if (form := self.canonical(text)) is not None]
        found = {"validity": len(valid) / len(texts)}
        if molecules := set(valid):
            found["uniqueness"] = len(molecules) / len(valid)
            found["novelty"] = len(molecules - self._training(self.canonical)) / len(molecules)
        if self.fcd_references is not None and len(valid) >= FEWEST_FOR_FCD:
            found["fcd"] = self._reference_molecules(self.fcd_references).distance(valid)
        return self.mark(predictions), found

    def errors(self, predictions: list[Row]) -> dict[str, tuple[int, float]]:
        """The standard error of `validity`, that of a share."""
        n = len(predictions)
        if self.canonical is None or n < 2:
            return {}
        share = sum(bool(row["valid"]) for row in self.mark(predictions)) / n
        return {"validity": (n, math.sqrt(share * (1 - share) / (n - 1)))}

    def _training(self, canonical: Canonical | None) -> set[str]:
        """The training data in canonical form, read once."""
        is_canonical = canonical is not None
        if is_canonical not in self._known:
            forms = self._texts("train") if canonical is None else map(canonical, self._texts("train"))
            self._known[is_canonical] = {form for form in forms if form is not None}
        return self._known[is_canonical]

    def _reference_molecules(self, most: int) -> ReferenceMolecules:
        if self._references is None:
            forms = map(canonical_smiles, self._texts("test"))
            self._references = ReferenceMolecules(list(islice((form for form in forms if form), most)))
            if len(self._references.smiles) < FEWEST_FOR_FCD:
                raise ConfigError(
                    f"The test data have {len(self._references.smiles)} molecules, and the Fréchet ChemNet distance "
                    f"needs at least {FEWEST_FOR_FCD}. Remove fcd_references.",
                    key="fcd_references",
                )
        return self._references

    def _texts(self, split: str) -> Iterator[str]:
        return (str(row["text"]) for row in get_function(self.reader)(None, None, **self.options, split=split))


def _check_references(count: int) -> None:
    if missing := [name for name in ("rdkit", "fcd") if find_spec(name) is None]:
        raise ConfigError(
            f'fcd_references needs {" and ".join(missing)}: pip install "xlm-core[fcd]".', key="fcd_references"
        )
    if count < FEWEST_FOR_FCD:
        raise ConfigError(
            f"fcd_references is {count}, and must be at least {FEWEST_FOR_FCD}: with fewer molecules the distance says "
            "more about their number than about the molecules.",
            key="fcd_references",
        )


def _text(row: Row) -> str:
    text = row.get("prediction", row.get("text"))
    if text is None:
        raise ConfigError(
            f"Molecules are in 'prediction' or 'text' of a row, but Predictor.to_dict gives: {', '.join(row)}.",
            key="post_hoc_evaluator",
        )
    return str(text).strip()
