"""The document: its format, its texts, and the errors of invalid ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.trace import replay
from xlm.errors import BadTargetError, ConfigError, DataError
from xlm.tasks.star import draw_graph
from xlm.traces.document import Document, describe_run, document, find_view, read_document, write_document


def test_a_document_comes_back_from_its_file(doc: Document, tmp_path: Path) -> None:
    write_document(tmp_path / "new/trace.json", doc)
    assert read_document(tmp_path / "new/trace.json") == json.loads(json.dumps(doc))


def test_every_sample_replays_to_its_ids_and_every_token_has_a_text(doc: Document) -> None:
    for run in doc["runs"]:
        for sample in run["samples"]:
            assert replay(sample["given"], sample["steps"]) == sample["ids"]
            shown = {*sample["given"], *sample["ids"]}
            assert {str(token) for token in shown} <= run["tokens"].keys()


def test_texts_and_prompts_are_without_special_tokens(doc: Document) -> None:
    ilm, mlm, wrong, text = (run["samples"][0] for run in doc["runs"])
    assert [s["text"] for s in (ilm, mlm, wrong, text)] == ["0 1 1 2", "0 1 1 2", "0 3 3 2", "5 6 7"]
    assert [s["truth"] for s in (ilm, text)] == ["0 1 1 2", "5 6 7"]
    assert text["prompt"] == "5 [MASK] 7"
    assert [s["calls"] for s in (ilm, mlm, text)] == [5, 6, 1]
    assert ilm["drawing"] == mlm["drawing"] is not None
    assert text["drawing"] is None


def test_tokens_carry_their_blanks_and_special_ones_their_roles(doc: Document) -> None:
    mlm = doc["runs"][1]
    assert mlm["tokens"][str(mlm["special"]["mask"])] == "[MASK]"
    assert {text for text in mlm["tokens"].values() if not text.startswith("[")} <= {f" {n}" for n in range(9)}


def test_a_prompt_is_read_from_the_row_where_it_was_not_given(tokenizer: SimpleSpaceTokenizer, doc: Document) -> None:
    from xlm.decoding.trace import Trace

    asked = doc["runs"][1]["samples"][0]
    traces = [Trace(asked["given"], asked["answer_start"], steps=asked["steps"])]
    (sample,) = describe_run("again", traces, tokenizer, view=draw_graph)["samples"]
    assert (sample["prompt"], sample["drawing"]) == (asked["prompt"], asked["drawing"])


def test_a_run_that_recorded_nothing_is_refused(tokenizer: SimpleSpaceTokenizer) -> None:
    with pytest.raises(ConfigError, match="Nothing was recorded for 'silent'"):
        document("x", [describe_run("silent", [], tokenizer)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a trace"),
        ("[1]", "is not a trace"),
        ("{}", "is not a trace"),
        ('{"format": "xlm-trace/9"}', "format 'xlm-"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_document(tmp_path / "t.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no trace"):
        read_document(tmp_path / "t.json")


def test_views_are_found_by_name() -> None:
    assert find_view(None) is None
    assert find_view("xlm.tasks.star.draw_graph") is draw_graph
    with pytest.raises(BadTargetError, match="trace_view"):
        find_view("xlm.tasks.star.draw_nothing")
