"""Molecules: the package's layout, their tokens, and shares of valid, unique and novel samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlm.errors import ConfigError, DataError
from xlm.tasks import molecules
from xlm.tasks.molecules import MoleculeSamples, ReferenceMolecules, canonical_smiles, smiles_tokenizer
from xlm.tasks.qm9 import QM9, Molecules

READER = "xlm.tasks.qm9.QM9"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package `qm9pack` with its columns and a few rows."""
    data = tmp_path / "site" / "qm9pack" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise RuntimeError('it is not imported')\n")
    for part in (1, 2, 3):
        rows = [f'"dsgdb9nsd_{i}.xyz",{i},"{"C" * i}O{part}","InChI=1S/CH4,h1H4",5,"[4,1]"' for i in range(1, 41)]
        header = "XYZ_file,Index,SMILES,InChi,N_atoms,Stoichiometry"
        (data / f"qm9_part{part}.csv").write_text("\n".join([header, *rows]) + "\n")
    monkeypatch.syspath_prepend(str(data.parents[1]))
    return data


def all_of(**options: Any) -> dict[str, list[str]]:
    return {split: [row["text"] for row in QM9(split=split, **options)] for split in ("train", "val", "test")}


def test_the_package_has_all_molecules_in_disjoint_splits(package: Path) -> None:
    found = all_of()
    every = [text for texts in found.values() for text in texts]
    assert len(every) == len(set(every)) == 120
    assert "CCO1" in every
    assert len(found["train"]) > 80
    assert sorted(all_of(seed=1)["train"]) == sorted(found["train"]) != all_of(seed=1)["train"]
    before = QM9.source_identity()
    with (package / "qm9_part3.csv").open("a") as file:
        file.write('"x",1,"CN","","",""\n')
    assert QM9.source_identity() != before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CCO ethanol\nC1CC1\n\n"),
        ("a.txt", "CCO\nC1CC1\n"),
        ("a.csv", "id,smiles\n1,CCO\n2, C1CC1\n"),
        ("a.jsonl", '{"SMILES": "CCO"}\n{"SMILES": "C1CC1"}\n'),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    splits = ("train", "val", "test")
    texts = [row["text"] for split in splits for row in Molecules(split=split, path=str(tmp_path / name))]
    assert sorted(texts) == ["C1CC1", "CCO"]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("id,name\n1,CCO\n")
    with pytest.raises(DataError, match=r"a\.csv, line 2: there is no column smiles or SMILES; it has: id, name"):
        list(Molecules(path=str(tmp_path / "a.csv")))
    monkeypatch.setattr("xlm.tasks.qm9.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "xlm-core\[molecules\]", or give a file: corpus_file=PATH'):
        QM9()


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CC(=O)Cl", ["C", "C", "(", "=", "O", ")", "Cl"]),
        ("C[C@@H]1%12Br", ["C", "[", "C", "@@", "H", "]", "1", "%12", "Br"]),
        ("c1ccc2[nH]ccc2c1.N#C/C=C\\C", None),
    ],
)
def test_tokens_are_atoms_bonds_and_rings(smiles: str, tokens: list[str] | None) -> None:
    tokenizer = smiles_tokenizer()
    ids = tokenizer(smiles, add_special_tokens=False)["input_ids"]
    assert tokens is None or tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == smiles


def sorted_letters(text: str) -> str | None:
    """A canonical form for the tests: letters in any order are one molecule, and a digit is not valid."""
    return "".join(sorted(text)) if text.isalpha() else None


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


def test_shares_are_of_samples_of_valid_ones_and_of_different_ones(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{'C' * n}ON\n" for n in range(1, 60)))
    train = {row["text"] for row in Molecules(path=str(path))}
    known = max(train)
    evaluator = MoleculeSamples("xlm.tasks.qm9.Molecules", {"path": str(path)}, canonical=sorted_letters)
    marked, found = evaluator.eval(rows("BF", "FB", "S", known[::-1], "1", "2", "", "3"))
    assert found == {"validity": 4 / 8, "uniqueness": 3 / 4, "novelty": 2 / 3}
    assert [row["valid"] for row in marked] == [True] * 4 + [False] * 4
    assert evaluator.errors(marked) == {"validity": (8, pytest.approx((0.25 / 7) ** 0.5))}
    assert evaluator.eval(rows("1", "2"))[1] == {"validity": 0.0}
    assert evaluator.eval([]) == ([], {})
    with pytest.raises(ConfigError, match=r"Predictor\.to_dict gives: ids"):
        evaluator.eval([{"ids": [1]}])


def test_without_rdkit_only_strings_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(molecules, "find_spec", lambda name: None)
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{'C' * n}O\n" for n in range(1, 60)))
    evaluator = MoleculeSamples("xlm.tasks.qm9.Molecules", {"path": str(path)})
    assert 'The validity of molecules needs RDKit: pip install "xlm-core[molecules]".' in caplog.text
    known = next(iter(Molecules(path=str(path))))["text"]
    samples = rows(known, known, "N", "1")
    assert evaluator.eval(samples) == (samples, {"unique_strings": 3 / 4, "novel_strings": 2 / 3})
    assert evaluator.errors(samples) == {}
    assert evaluator.mark(samples) == samples


@pytest.mark.slow  # loads ChemNet, and takes roots of its covariances
def test_the_distance_of_molecules_from_those_of_the_test_data(tmp_path: Path) -> None:
    """With RDKit and ChemNet themselves."""
    path = tmp_path / "all.txt"
    path.write_text("".join(f"{'C' * (n % 90 + 1)}{'NOSF'[n // 90 % 4]}{'CC' * (n // 360)}\n" for n in range(6_000)))
    options = {"path": str(path)}
    known = [row["text"] for row in Molecules(split="test", **options)]
    evaluator = MoleculeSamples("xlm.tasks.qm9.Molecules", options, fcd_references=500)
    assert len(known) < 500
    with pytest.raises(ConfigError, match=r"The test data have \d+ molecules, .* at least 500"):
        evaluator.eval(rows(*known * 3))
    same = ReferenceMolecules(known[:12])
    assert same.distance(known[:12]) == pytest.approx(0, abs=1e-3)
    near, far = same.distance(known[12:24]), same.distance(["c1ccccc1", "CC#N", "O=C=O", "CS(C)=O"] * 3)
    assert 0 < near < far
    assert [canonical_smiles(text) for text in ("OCC", "C(C)O", "C1CC", "", "xyz")] == ["CCO", "CCO", None, None, None]


@pytest.mark.parametrize(
    ("count", "missing", "message"),
    [
        (10_000, "fcd", r'fcd_references needs fcd: pip install "xlm-core\[fcd\]"'),
        (499, "", "fcd_references is 499, and must be at least 500"),
    ],
)
def test_references_that_cannot_be(count: int, missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecules, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ConfigError, match=message):
        MoleculeSamples("xlm.tasks.qm9.QM9", canonical=sorted_letters, fcd_references=count)
