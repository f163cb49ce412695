"""A default install brings no package under a licence that would apply to the user's own programs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

import pytest

import licences
from licences import Licence, closure, main
from workspace import ROOT, read_packages


def test_a_default_install_has_only_permissive_licences() -> None:
    found = {licence.name: licence for licence in closure(read_packages(ROOT))}
    assert {"torch", "lightning", "datasets", "transformers", "hydra-core", "numpy", "xlm-core"} <= found.keys()
    assert [licence.problem for licence in found.values() if licence.problem] == []
    assert "mauve-text" not in found


def test_the_gpl_of_an_extra_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert metadata.version("mauve-text")  # the environment of the tests has it
    assert main(["xlm-core[mauve]"]) == 1
    assert "mauve-text 0.4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("GPL-3.0-or-later", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("", True),
        ("CC-BY-NC-4.0 NonCommercial", True),
        ("MIT OR GPL-2.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0 AND MIT", False),
        ("BSD-3-Clause", False),
        ("MPL-2.0", False),
    ],
)
def test_licences_are_told_apart(text: str, is_refused: bool) -> None:
    assert bool(Licence("x", "1", text).problem) == is_refused


def test_markers_and_extras_of_requirements_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    requires: Mapping[str, list[str]] = {
        "a": ["b; python_version > '3'", "c; python_version < '3'", "d; extra == 'more'", "not-installed"],
        "b": ["a", "e[more]"],
        "e": ["f; extra == 'more'"],
    }

    class Found:
        def __init__(self, name: str) -> None:
            if name == "not-installed":
                raise metadata.PackageNotFoundError(name)
            self.requires, self.version = requires.get(name, []), "1"

    monkeypatch.setattr(licences.metadata, "distribution", Found)
    monkeypatch.setattr(licences, "licence_of", lambda _: "MIT")
    assert {licence.name for licence in closure(["a"])} == {"a", "b", "e", "f"}
    assert {licence.name for licence in closure(["a[more]"])} == {"a", "b", "d", "e", "f"}
