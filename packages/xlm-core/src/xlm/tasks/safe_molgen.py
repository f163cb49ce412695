"""Molecules as SAFE strings by path: SMILES whose fragments stand one after the other, joined by ring numbers.

Noutahi et al. 2023, "Gotta be SAFE", arXiv:2310.10773. A SAFE string is a SMILES string, so RDKit decides about its
validity, and no further library is needed.
"""

from xlm.tasks.molecules import MoleculeSamples, canonical_smiles, smiles_tokenizer
from xlm.tasks.qm9 import Molecules

__all__ = ["MoleculeSamples", "Molecules", "canonical_smiles", "smiles_tokenizer"]
