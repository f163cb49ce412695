"""Tests of the check that an environment holds nothing else of ours."""

import pytest

import check_installed
from workspace import ROOT, read_packages

PACKAGES = read_packages(ROOT)


class Spec:
    """As much of a module spec as the check looks at."""

    def __init__(self, origin: str) -> None:
        self.origin = origin


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distribution → where its import package lies; tests fill it."""
    installed: dict[str, str] = {}
    names = {p.import_name: n for n, p in PACKAGES.items()}

    def distributions() -> list[object]:
        return [type("Distribution", (), {"metadata": {"Name": name}}) for name in installed]

    def find_spec(name: str) -> Spec | None:
        return Spec(installed[names[name]]) if names[name] in installed else None

    monkeypatch.setattr(check_installed.metadata, "distributions", distributions)
    monkeypatch.setattr(check_installed.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(check_installed, "is_editable", lambda name: "editable" in installed[name])
    return installed


def problems(*wanted: str, not_editable: bool = False) -> list[str]:
    return check_installed.problems(PACKAGES, list(wanted), not_editable=not_editable)


def test_exactly_what_is_wanted(environment: dict[str, str]) -> None:
    environment["xlm-core"] = "/site/xlm/__init__.py"
    assert problems("xlm-core") == []
    assert problems("xlm-core", not_editable=True) == []


def test_something_else_of_ours(environment: dict[str, str]) -> None:
    environment.update({"xlm-core": "/site/xlm/__init__.py", "xlm-arlm": "/site/arlm/__init__.py"})
    assert problems("xlm-core") == ["xlm-arlm is installed, and should not be"]


def test_something_missing(environment: dict[str, str]) -> None:
    assert problems("xlm-core") == ["xlm-core is not installed"]
    assert "packages/ has no xlm-zz" in problems("xlm-zz")


def test_an_editable_install_is_no_copy(environment: dict[str, str]) -> None:
    environment["xlm-core"] = "/editable/xlm/__init__.py"
    assert problems("xlm-core") == []
    assert problems("xlm-core", not_editable=True) == [
        "xlm-core is editable: this tests the checkout, not what a user gets"
    ]


def test_the_checkout_is_no_copy(environment: dict[str, str]) -> None:
    origin = str(ROOT / "packages/xlm-core/src/xlm/__init__.py")
    environment["xlm-core"] = origin
    assert problems("xlm-core", not_editable=True) == [f"xlm comes from the checkout: {origin}"]


def test_the_exit_code(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    environment["xlm-core"] = "/site/xlm/__init__.py"
    assert check_installed.main(["xlm-core"]) == 0
    assert check_installed.main(["xlm-core", "xlm-arlm"]) == 1
    assert capsys.readouterr().out == "alone: xlm-core\nxlm-arlm is not installed\n"
