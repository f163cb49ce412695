"""The order in which a text was written, as pieces and as moments."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.trace import Writing, pieces, snapshots, writing

TOKENIZER = SimpleSpaceTokenizer(["a", "b", "c"])
A, B, C = (TOKENIZER.encode(word)[0] for word in "abc")
PAD, BOS, EOS = TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id


@settings(deadline=None)
@given(st.lists(st.sampled_from([A, B, C]), max_size=8))
def test_pieces_together_are_the_text(ids: list[int]) -> None:
    assert "".join(pieces(ids, TOKENIZER)) == TOKENIZER.decode(ids)


def test_special_tokens_are_no_part_of_a_text() -> None:
    written = writing([BOS, A, B, EOS, PAD], [-1, 1, 0, 2, -1], TOKENIZER, gap="_")
    assert written == {"pieces": ["a", " b"], "steps": [1, 0], "gap": "_"}


def test_masks_wait_in_their_places_and_new_pieces_stand_out() -> None:
    written: Writing = {"pieces": ["a", " b", " c"], "steps": [2, -1, 0], "gap": "_"}
    assert snapshots(written) == [
        [("_", False), (" b", False), (" c", True)],
        [("a", True), (" b", False), (" c", False)],
    ]


def test_insertions_leave_no_gap() -> None:
    written: Writing = {"pieces": ["a", " b", " c"], "steps": [1, 2, 0], "gap": ""}
    assert ["".join(piece for piece, _ in line) for line in snapshots(written)] == [" c", "a c", "a b c"]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 30), max_size=20), st.integers(1, 6))
def test_the_last_moment_is_the_end_and_every_piece_is_new_once(steps: list[int], count: int) -> None:
    written: Writing = {"pieces": [f" {n}" for n in range(len(steps))], "steps": steps, "gap": ""}
    shown = snapshots(written, count)
    drawn = [step for step in steps if step >= 0]
    assert len(shown) == min(count, len(set(drawn)))
    if drawn:
        assert [piece for piece, _ in shown[-1]] == written["pieces"]
    assert sum(is_new for line in shown for _, is_new in line) == len(drawn)


def test_nothing_written_is_nothing_to_show() -> None:
    assert snapshots({"pieces": ["a"], "steps": [-1], "gap": "_"}) == []
