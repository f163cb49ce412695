"""Where models are found, and every row of the error table that discovery is responsible for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.errors import (
    ExternalModelConflictError,
    ModelLayoutError,
    ModelNotInstalledError,
    ModelsFileError,
    UnknownModelError,
)
from xlm.external_models import discover, find_model, find_models

if TYPE_CHECKING:
    from ..conftest import WriteModel


def list_models(folder: Path, **models: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "xlm_models.json").write_text(json.dumps(models))


def install(site: Path, name: str, entry_points: str, version: str = "0.4.0") -> None:
    info = site / f"{name}_dist-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[xlm.models]\n{entry_points}\n")


@pytest.mark.parametrize("layout", ["flat", "nested", "inner"])
@pytest.mark.parametrize("place", [".", "xlm-models", "XLM_MODELS_PATH"])
def test_all_places_and_layouts(work_dir: Path, write_model: WriteModel, place: str, layout: str) -> None:
    folder = work_dir.parent / "elsewhere" if place == "XLM_MODELS_PATH" else work_dir / place
    write_model(folder / "toy", layout=layout)
    list_models(folder, toy="toy")
    environ = {"XLM_MODELS_PATH": str(folder)} if place == "XLM_MODELS_PATH" else {}
    before = list(sys.path)
    models = find_models(environ, work_dir)
    assert models["toy"].root == folder.resolve() / "toy"
    expected = folder.resolve() / "xlm_models.json"
    assert models["toy"].source == str(expected.relative_to(work_dir) if place != "XLM_MODELS_PATH" else expected)
    assert sys.path == before
    assert "toy" not in sys.modules


def test_path_variable_lists_several_and_tells_those_without_a_file(work_dir: Path, write_model: WriteModel) -> None:
    for name in ("toy_a", "toy_b"):
        write_model(work_dir / name / name, name=name)
        list_models(work_dir / name, **{name: name})
    variable = os.pathsep.join(["toy_a", "", "nowhere", str(work_dir / "toy_b")])
    found = discover({"XLM_MODELS_PATH": variable}, work_dir)
    assert {"toy_a", "toy_b"} <= set(found.models)
    assert [w for w in found.warnings if "XLM_MODELS_PATH lists nowhere" in w]
    assert not found.errors


def test_the_same_file_twice_is_read_once(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "toy")
    list_models(work_dir, toy="toy")
    models = find_models({"XLM_MODELS_PATH": f".{os.pathsep}{work_dir}"}, work_dir)
    assert models["toy"].source == "xlm_models.json"


def test_entry_point_and_variable_and_directory_are_one_model(
    work_dir: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = work_dir.parent / "site"
    write_model(site / "toy_installed", name="toy_installed")
    install(site, "toy", "toy_installed = toy_installed")
    list_models(work_dir, toy_installed=str(site / "toy_installed"))
    monkeypatch.syspath_prepend(str(site))
    found = discover({"XLM_MODELS_PACKAGES": "toy_installed:arlm_not:"}, work_dir)
    assert found.models["toy_installed"].source == ("xlm_models.json, entry point of toy-dist, XLM_MODELS_PACKAGES")
    assert isinstance(found.errors[0], ModelNotInstalledError)


def test_entry_points_bring_version_and_need_no_import(
    work_dir: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = work_dir.parent / "site"
    write_model(site / "toy_installed", name="toy_installed", init="raise RuntimeError('imported')\n")
    install(site, "toy", "nice_name = toy_installed\nleftover = toy_gone.models")
    monkeypatch.syspath_prepend(str(site))
    found = discover({}, work_dir)
    model = found.models["nice_name"]
    assert (model.version, model.source, model.import_root) == ("0.4.0", "entry point of toy-dist", None)
    assert not found.errors
    assert "No module named 'toy_gone.models', which the entry point of toy-dist lists" in str(
        found.unusable["leftover"].error
    )


def test_core_models_come_by_their_entry_points(work_dir: Path) -> None:
    for model in find_models({}, work_dir).values():
        assert model.source.startswith("entry point of xlm-")
        assert model.version != "unknown"


def test_same_name_different_directories_is_a_conflict(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "toy")
    write_model(work_dir / "xlm-models" / "toy")
    list_models(work_dir, toy="toy")
    list_models(work_dir / "xlm-models", toy="toy")
    with pytest.raises(ExternalModelConflictError) as caught:
        find_models({}, work_dir)
    error = caught.value
    assert str(error).splitlines()[0] == "Duplicate model name: toy"
    assert {directory for directory, _ in error.claims} == {work_dir / "toy", work_dir / "xlm-models" / "toy"}
    for text in ("xlm_models.json", str(Path("xlm-models") / "xlm_models.json"), "remove or rename"):
        assert text in str(error)


def test_a_repeated_key_in_one_file_is_a_conflict_too(work_dir: Path, write_model: WriteModel) -> None:
    for name in ("one", "two"):
        write_model(work_dir / name, name="toy")
    (work_dir / "xlm_models.json").write_text('{"toy": "one", "toy": "two"}')
    with pytest.raises(ExternalModelConflictError):
        find_models({}, work_dir)
    (work_dir / "xlm_models.json").write_text('{"toy": "one", "toy": "./one"}')
    assert find_models({}, work_dir)["toy"].root == work_dir / "one"


def test_a_listed_directory_against_another_package_that_python_would_import(
    work_dir: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(work_dir / "toy_twin", name="toy_twin")
    list_models(work_dir, toy_twin="toy_twin")
    (work_dir.parent / "site" / "toy_twin").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(work_dir.parent / "site"))
    assert "toy_twin" in find_models({}, work_dir)  # a folder without __init__.py hides nothing
    (work_dir.parent / "site" / "toy_twin" / "__init__.py").touch()
    with pytest.raises(ExternalModelConflictError, match="what `import toy_twin` finds in this environment"):
        find_models({}, work_dir)


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize("package", ["random", "json", "sys", "_thread", "this"])
def test_a_package_that_python_hides_is_left_out(
    work_dir: Path, write_model: WriteModel, package: str, layout: str
) -> None:
    """Modules of the standard library: one file, a package, built in, private, of one statement."""
    root = package if layout == "flat" else "nested"
    write_model(work_dir / root, name=package, layout=layout)
    write_model(work_dir / "toy")
    list_models(work_dir, hidden=root, toy="toy")
    found = discover({}, work_dir)
    assert "toy" in found.models
    assert "hidden" not in found.models
    assert isinstance(found.unusable["hidden"].error, ModelLayoutError)
    assert f"'{package}' is a module of Python's standard library" in str(found.unusable["hidden"].error)
    assert (found.unusable["hidden"].source, found.unusable["hidden"].error.name) == ("xlm_models.json", "hidden")
    assert not found.errors


def test_a_listed_directory_against_a_module_of_one_file(
    work_dir: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = work_dir.parent / "site"
    site.mkdir()
    (site / "toy_module.py").touch()
    monkeypatch.syspath_prepend(str(site))
    write_model(work_dir / "toy_module", name="toy_module")
    list_models(work_dir, toy_module="toy_module")
    with pytest.raises(ExternalModelConflictError, match=r"toy_module\.py  \(from what `import toy_module` finds"):
        find_models({}, work_dir)


def test_one_conflict_does_not_stop_the_other_models(work_dir: Path, write_model: WriteModel) -> None:
    for folder in (work_dir, work_dir / "xlm-models"):
        write_model(folder / "toy")
        list_models(folder, toy="toy")
    write_model(work_dir / "good", name="good")
    list_models(work_dir, toy="toy", good="good")
    found = discover({}, work_dir)
    assert "good" in found.models
    assert "toy" not in found.models
    assert found.unusable["toy"].error in found.errors
    assert found.unusable["toy"].source == f"xlm_models.json, {Path('xlm-models') / 'xlm_models.json'}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it cannot be read as JSON"),
        ("", "it cannot be read as JSON"),
        ("[" * 100_000, "it cannot be read as JSON"),
        ("[1]", "an object such as"),
        ("null", "not null"),
        ('"x"', "not a string"),
        ('{"toy": 3}', "the directory of model 'toy' must be a string, not a number"),
        ('{"toy": null}', "must be a string, not null"),
        ('{"toy": ["a"]}', "must be a string, not a list"),
        ('{"toy": {"path": "a"}}', "must be a string, not an object"),
        ('{"toy": true}', "must be a string, not true or false"),
        ('{"toy": ""}', "is empty"),
        ('{"toy": "a\\u0000b"}', "not a usable path"),
        ('{"": "toy"}', "cannot name a model"),
        ('{"a/b": "toy"}', "cannot name a model"),
    ],
)
def test_broken_listings_are_errors_that_name_the_file(work_dir: Path, text: str, reason: str) -> None:
    (work_dir / "xlm_models.json").write_text(text)
    with pytest.raises(ModelsFileError) as caught:
        find_models({}, work_dir)
    assert str(caught.value).startswith("xlm_models.json: ")
    assert reason in str(caught.value)
    assert caught.value.name == (next(iter(json.loads(text))) if text.startswith('{"') else None)


def test_a_file_that_is_a_folder_or_not_text(work_dir: Path) -> None:
    (work_dir / "xlm_models.json").mkdir()
    (work_dir / "xlm-models").mkdir()
    (work_dir / "xlm-models" / "xlm_models.json").write_bytes(b"\xff\xfe\x00")
    assert len(discover({}, work_dir).errors) == 2


def test_a_byte_order_mark_is_no_mistake(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "toy")
    (work_dir / "xlm_models.json").write_bytes(b"\xef\xbb\xbf" + b'{"toy": "toy"}')
    assert "toy" in find_models({}, work_dir)


def test_good_entries_of_a_partly_broken_file_are_found(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "toy")
    list_models(work_dir, toy="toy", other=3)
    found = discover({}, work_dir)
    assert "toy" in found.models
    assert len(found.errors) == 1


def test_a_missing_directory_is_a_warning_and_the_reason_is_kept(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "toy")
    list_models(work_dir, toy="toy", lost="lost")
    found = discover({}, work_dir)
    assert "toy" in find_models({}, work_dir)
    assert not found.errors
    assert found.warnings == [str(found.unusable["lost"].error)]
    assert "xlm_models.json: model 'lost' is listed with the directory" in found.warnings[0]
    assert found.unusable["lost"].tolerated
    assert (found.unusable["lost"].source, found.unusable["lost"].error.name) == ("xlm_models.json", "lost")


def test_a_missing_directory_is_forgotten_when_the_model_is_elsewhere(work_dir: Path, write_model: WriteModel) -> None:
    write_model(work_dir / "xlm-models" / "toy")
    list_models(work_dir, toy="lost")
    list_models(work_dir / "xlm-models", toy="toy")
    found = discover({}, work_dir)
    assert found.models["toy"].root == work_dir / "xlm-models" / "toy"
    assert not found.unusable


def test_a_broken_layout_leaves_that_model_out(work_dir: Path, write_model: WriteModel) -> None:
    (work_dir / "empty").mkdir()
    write_model(work_dir / "toy")
    list_models(work_dir, toy="toy", empty="empty")
    found = discover({}, work_dir)
    assert "toy" in found.models
    assert isinstance(found.unusable["empty"].error, ModelLayoutError)
    assert not found.unusable["empty"].tolerated
    assert (found.unusable["empty"].source, found.unusable["empty"].error.name) == ("xlm_models.json", "empty")


@pytest.mark.parametrize("package", ["my_model", "no.such.package", "not a name", "../x", "json.x"])
def test_a_listed_package_that_is_not_installed(work_dir: Path, package: str) -> None:
    with pytest.raises(ModelNotInstalledError) as caught:
        find_models({"XLM_MODELS_PACKAGES": f"{package}:"}, work_dir)
    assert str(caught.value) == (
        f"No module named '{package}', which XLM_MODELS_PACKAGES lists. Is it installed in this environment?"
    )
    (left_out,) = discover({"XLM_MODELS_PACKAGES": package}, work_dir).unusable.values()
    assert left_out.source == "XLM_MODELS_PACKAGES"


def test_a_listed_package_that_is_no_model(work_dir: Path) -> None:
    with pytest.raises(ModelLayoutError, match=r"Model 'json'.*there is no configs/ folder"):
        find_models({"XLM_MODELS_PACKAGES": "json"}, work_dir)


def test_nothing_found_is_no_mistake(tmp_path: Path) -> None:
    found = discover({}, tmp_path / "not_even_there")
    assert not found.errors
    assert found.places[:2] == ["xlm_models.json", str(Path("xlm-models") / "xlm_models.json")]
    with pytest.raises(UnknownModelError, match=r"(?s)'toy'.*xlm_models\.json") as caught:
        find_model("toy", found)
    assert caught.value.name == "toy"
