"""`data.text=FILE` becomes overrides of a datamodule; files for a datamodule that nobody chose are refused."""

from __future__ import annotations

import pytest

from xlm.compose.own_data import name_of_data, with_own_data
from xlm.errors import ConfigError


def test_columns_choose_the_datamodule() -> None:
    assert with_own_data(["data.text=a.txt", "model_type=mlm"]) == (
        "datamodule=own_text", "data_files.train=a.txt", "model_type=mlm", "~model", "data.automatic=true",
    )  # fmt: skip
    pairs = with_own_data(["data.text=a.csv", "data.prompt=q", "data.answer=a", "model=tiny_mlm", "model.d_model=8"])
    assert pairs == (
        "datamodule=own_pairs", "data_files.train=a.csv", "columns.prompt=q", "columns.answer=a", "model=tiny_mlm",
        "model.d_model=8", "data.automatic=true",
    )  # fmt: skip
    assert with_own_data(["data.text=a", "data.messages=m"])[0] == "datamodule=own_chat"
    # The options of a network that is chosen later; texts with gaps are a choice of the person.
    found = with_own_data(["data.text=a", "datamodule=own_infill", "model.d_model=8"])
    assert found[0] == "datamodule=own_infill"
    assert "++model.d_model=8" in found
    assert "~model" not in with_own_data(["data.text=a", "experiment=text_mlm"])
    # Once expanded, as for the other processes of a run, nothing changes.
    assert with_own_data(pairs) == pairs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.txt=a"], "There is no key 'data.txt'. Did you mean 'data.text'?"),
        (["data.text="], "data.text= is empty"),
        (["data.prompt=q", "data.answer=a"], "no file is given. Add data.text=FILE."),
        (["data.text=a", "data.prompt=q"], "data.prompt needs data.answer"),
        (["data.text=a", "data.answer=q"], "data.answer needs data.prompt"),
        (["data.text=a", "data.messages=m", "data.prompt=q", "data.answer=r"], "not both"),
        (["data.text=a", "data_files.train=b"], "both name the training data"),
        (["data.text=a", "datamodule=star_easy"], "another datamodule than that of data.text="),
        (["data.text=a", "++eval.checkpoint_path=runs/x"], "data_files.test=FILE"),
        (["data_files=a.txt"], "For a new run on your own texts: data.text=a.txt."),
        (["data_files=a.txt", "datamodule=own_text"], "does not say which split it is for"),
        (["job_type=train", "data_files.train=a.txt"], "replaces data of a datamodule, but none is chosen"),
        (["job_type=eval", "data_files.test=a.txt", "model_type=mlm"], "none is chosen"),
    ],
)
def test_what_cannot_be_meant(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_own_data(overrides)
    assert message in str(caught.value)


def test_files_for_chosen_data() -> None:
    for chosen in ("datamodule=own_text", "experiment=star_easy_mlm", "eval.checkpoint_path=runs/x"):
        overrides = [chosen, "data_files.test=a.txt", "data_files={train: a.txt}"]
        assert with_own_data(overrides) == tuple(overrides)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("mine.txt", "mine"),
        ("'my texts.jsonl.gz'", "my texts"),
        ("v1.2/notes.parquet", "notes"),
        ("books/", "books"),
        ("books/*.txt", "books"),
        ("books/**/*.txt", "books"),
        ("*.txt", "data"),
        ("owner/data/train", "data"),
        ("mine.txt[:95%]", "mine-95percent"),
        ("[a.txt,b/c.txt]", "a-and-1-more"),
        ("{a: x.txt, b: y.txt}", "x-and-1-more"),
    ],
)
def test_names_of_runs(named: str, name: str) -> None:
    assert name_of_data(named) == name
