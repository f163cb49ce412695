"""Examples that don't fit are refused, cut, dropped or split by one rule, and are counted once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlm.data.collate import Limit, limits, room
from xlm.data.fitting import RemainingRows, SplitRows, TooLong, fitted, limits_of
from xlm.data.functional import pack_sequences
from xlm.data.loaders import make_loader
from xlm.data.manager import DatasetManager
from xlm.data.rows import ArrowRows, ListRows, Rows, write_rows
from xlm.data.shifting import ShiftedRows, shifted
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
LENGTHS = [3, 9, 0, 4, 5, 12, 4]


def texts(lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    return [{"input_ids": list(range(n)), "num_bytes": 2 * n} for n in lengths]


def arrow(folder: Path, rows: list[dict[str, Any]]) -> ArrowRows:
    return ArrowRows(write_rows(folder, rows))


def everything(rows: Rows) -> list[dict[str, Any]]:
    return rows.fetch(range(len(rows)))


def where(number: int) -> str:
    return f"a.txt, line {number + 1}"


@pytest.fixture
def rows(tmp_path: Path) -> ArrowRows:
    return arrow(tmp_path, texts())


def test_what_fits_is_left_alone(rows: ArrowRows) -> None:
    for policy in (None, "error", "truncate", "drop", "split"):
        found, said = fitted(rows, {"input_ids": Limit(12, "error")}, policy, "train.lm", where)
        assert found is rows
        assert said == ["train.lm: 1 of 7 examples are empty."]


def test_each_policy(rows: ArrowRows) -> None:
    def fit(policy: str | None, truncate: Any = "error") -> tuple[list[Any], str]:
        found, said = fitted(rows, {"input_ids": Limit(4, truncate)}, policy, "train.lm", where)
        return [row["input_ids"] for row in everything(found)], said[-1]

    count = "train.lm: 3 of 7 texts have more than the 4 tokens that fit (block_size), the longest 12; "
    whole = [list(range(n)) for n in LENGTHS]
    assert fit("drop") == ([ids for ids in whole if len(ids) <= 4], count + "3 are dropped.")
    assert fit("truncate") == ([ids[:4] for ids in whole], count + "their end is cut off.")
    pieces = [ids[start : start + 4] for ids in whole for start in range(0, max(1, len(ids)), 4)]
    assert fit("split") == (pieces, count + "they are split into 12 examples.")
    # What a collator cuts itself is left to it, and is said.
    otherwise = " To change this, set too_long to drop, split or error."
    assert fit(None, "right") == (whole, count + "their end is cut off." + otherwise)
    assert fit("truncate", "right")[0] == whole
    assert "the collator decides what happens" in fit(None, None)[1]
    for policy, truncate in ((None, "error"), ("error", "right"), ("error", "error")):
        with pytest.raises(DataError, match=r"The first is a.txt, line 2.\n.*truncate, drop or split") as e:
            fit(policy, truncate)
        assert "datamodule.dataset_managers.train.lm.too_long=" in str(e.value)


def test_bytes_of_the_whole_text_are_not_those_of_a_part(rows: ArrowRows) -> None:
    for policy in ("truncate", "split"):
        found, _ = fitted(rows, {"input_ids": Limit(4, "error")}, policy, "a", where)
        assert {row["num_bytes"] for row in everything(found)} == {6, 0, 8, None}
        assert found.fetch([1])[0]["num_bytes"] is None


def test_prompts_lose_their_start_and_are_not_split(tmp_path: Path) -> None:
    data = [{"prompt_ids": list(range(n)), "input_ids": list(range(m))} for n, m in ((3, 9), (9, 3), (1, 1))]
    rows = arrow(tmp_path, data)
    both = {"prompt_ids": Limit(4, "error"), "input_ids": Limit(5, "error")}
    found, said = fitted(rows, both, "truncate", "a", where)
    assert everything(found)[:2] == [
        {"prompt_ids": [0, 1, 2], "input_ids": [0, 1, 2, 3, 4]},
        {"prompt_ids": [5, 6, 7, 8], "input_ids": [0, 1, 2]},
    ]
    assert (
        "1 of 3 prompts have more than the 4 tokens that fit (input_block_size), the longest 9; their start" in said[0]
    )
    found, said = fitted(rows, both, "drop", "a", where)
    assert everything(found) == data[2:]
    assert all("2 are dropped" in sentence for sentence in said)
    with pytest.raises(DataError, match="too_long=split is for texts without prompts"):
        fitted(rows, both, "split", "a", where)
    with pytest.raises(DataError, match=r"too_long to truncate or drop \("):
        fitted(rows, both, None, "a", where)
    with pytest.raises(DataError, match="leaves no examples"):
        fitted(rows, {"input_ids": Limit(0, "error")}, "drop", "a", where)


@pytest.mark.parametrize("seed", range(20))
def test_views_give_what_lists_would(seed: int, tmp_path: Path) -> None:
    """Any row at any place, and lengths over several files."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 20, size=30).tolist()
    limit = int(generator.integers(1, 20))
    data = texts(lengths)
    files = write_rows(tmp_path / "a", data[:11]) if (tmp_path / "a").mkdir() is None else []
    (tmp_path / "b").mkdir()
    rows = ArrowRows([*files, *write_rows(tmp_path / "b", data[11:])])
    numbers, found = rows.longer_than("input_ids", limit)
    assert numbers.tolist() == [n for n, length in enumerate(lengths) if length > limit]
    assert found.tolist() == [length for length in lengths if length > limit]
    if not len(numbers):
        return
    order = generator.permutation(30 - len(numbers)).tolist()
    kept = [row["input_ids"] for row in data if len(row["input_ids"]) <= limit]
    fetched = RemainingRows(ListRows(data), numbers).fetch(order)
    assert [row["input_ids"] for row in fetched] == [kept[n] for n in order]
    split = SplitRows(ListRows(data), TooLong("input_ids", Limit(limit, "error"), numbers, found))
    pieces = [r["input_ids"][s : s + limit] for r in data for s in range(0, max(1, len(r["input_ids"])), limit)]
    assert len(split) == len(pieces)
    order = generator.permutation(len(pieces)).tolist()
    assert [row["input_ids"] for row in split.fetch(order)] == [pieces[n] for n in order]


def test_ranks_share_pieces_and_a_run_goes_on_among_them(rows: ArrowRows) -> None:
    split, _ = fitted(rows, {"input_ids": Limit(4, "error")}, "split", "a", where)

    def loader(rank: int = 0, world_size: int = 1) -> Any:
        return make_loader(split, list, train=True, batch_size=2, seed=1, rank=rank, world_size=world_size)

    def seen(batches: Any) -> list[Any]:
        return [(example["input_ids"], example["noise_seed"]) for batch in batches for example in batch]

    assert sorted(seen(loader())) == sorted(seen(loader(0, 2)) + seen(loader(1, 2)))
    first = loader()
    taken = [next(iter(first))]
    rest = loader()
    rest.load_state_dict(first.state_dict())
    assert seen(taken) + seen(rest) == seen(loader())


class Old:
    """A collator that says nothing of its limits, as published ones do."""

    block_size, input_block_size = 6, None


class New:
    """One that does."""

    def token_limits(self) -> dict[str, Limit]:
        return limits(prompt=room(8, 2), prompt_truncate="left", setting="block_size")


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("limit", [1, 4, 7])
def test_shifted_blocks_have_every_token_once_in_every_epoch(limit: int, joined: bool) -> None:
    rng = np.random.default_rng(limit)
    documents = [rng.integers(0, 20, n).tolist() for n in rng.integers(0, 30, 40)]
    rows: Rows = ListRows({"input_ids": ids} for ids in documents)
    if joined:  # ten groups of documents, each a text with EOS in between
        groups = [{"input_ids": documents[start : start + 4]} for start in range(0, 40, 4)]
        blocks = [pack_sequences(group, TOKENIZER, limit)["input_ids"] for group in groups]
        rows = ListRows({"input_ids": ids} for group in blocks for ids in group)
        documents = [list(chain.from_iterable(group)) for group in blocks]
    else:
        lengths = np.array([len(ids) for ids in documents])
        long = np.flatnonzero(lengths > limit)
        rows = SplitRows(rows, TooLong("input_ids", Limit(limit, "error"), long, lengths[long]))
    plain = [row["input_ids"] for row in everything(rows)]
    moved = shifted(rows, 5, joined, "train.lm")
    assert isinstance(moved, ShiftedRows)
    seen = []
    for epoch in range(4):
        order = rng.permutation(len(moved)).tolist()
        fetched = dict(zip(order, moved.fetch_of(epoch, order), strict=True))
        found = [fetched[number]["input_ids"] for number in range(len(moved))]
        assert list(chain.from_iterable(found)) == list(chain.from_iterable(documents))
        most = moved.lengths("input_ids")
        assert most is not None
        assert all(len(ids) <= size <= limit for ids, size in zip(found, most, strict=True))
        assert [bool(ids) for ids in found] == [bool(ids) for ids in plain]
        seen.append(found)
    # Blocks of one token cannot move.
    assert (seen[0] == plain) == (limit == 1)
    assert (seen[0] == seen[1]) == (limit == 1)
    assert [row["input_ids"] for row in shifted(rows, 5, joined, "").fetch(range(len(rows)))] == seen[0]


class Rest(list[Any]):
    """A collator that returns the rows themselves."""

    block_size = 6

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows


def test_training_sees_shifted_blocks_and_says_where_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 2 3 4 5 6 7 8 9 10 11\n12 13\n")

    def manager(**options: Any) -> DatasetManager:
        made = DatasetManager(
            Rest(),
            str(path),
            preprocess_function="xlm.data.functional.text_to_input_ids",
            columns_to_keep=["input_ids"],
            shift_blocks=True,
            dataloader_kwargs={"batch_size": 1, "drop_last": False},
            **options,
        )
        made.label = "train.lm"
        made.setup(TOKENIZER, tmp_path / "cache")
        return made

    def blocks(loader: Any) -> list[tuple[int, ...]]:
        return [tuple(row["input_ids"]) for batch in loader for row in batch]

    whole = TOKENIZER.encode("1 2 3 4 5 6 7 8 9 10 11 12 13", add_special_tokens=False)
    split = manager(too_long="split")
    loader = split.get_dataloader("train", TOKENIZER, seed=3)
    epochs = [sorted(blocks(loader)) for _ in range(8)]
    assert all(list(chain.from_iterable(epoch)) == whole for epoch in epochs)
    # 11 tokens in two blocks of 6: there are two places to begin.
    assert len({tuple(epoch) for epoch in epochs}) == 2
    resumed = split.get_dataloader("train", TOKENIZER, seed=3)
    resumed.load_state_dict({**loader.state_dict(), "epoch": 5, "batch": 1})
    assert set(blocks(resumed)) < set(epochs[5])
    plain = blocks(split.get_dataloader("val", TOKENIZER, seed=3))
    assert plain == [tuple(whole[:6]), tuple(whole[6:11]), tuple(whole[11:])]
    with pytest.raises(DataError, match=r"train\.lm: shift_blocks=true has no effect, .*\. Set too_long=split"):
        manager(too_long="truncate").get_dataloader("train", TOKENIZER)
    with pytest.raises(DataError, match="shift_blocks=true is for prepared data"):
        manager(streaming=True, too_long="split")


def test_limits_of_collators() -> None:
    assert limits_of(Old(), ["input_ids", "prompt_ids"], False) == {"input_ids": Limit(6, None)}
    assert limits_of(None, ["input_ids"], False) == {}
    assert limits_of(New(), ["input_ids", "prompt_ids"], False) == {"prompt_ids": Limit(6, "left", "block_size")}
    assert limits_of(New(), ["input_ids"], False) == {}
    # A prompt that is made of the text when it is fetched.
    assert limits_of(New(), ["input_ids"], True) == {"input_ids": Limit(6, "left", "block_size")}
    assert limits(text=None, prompt=-1) == {"prompt_ids": Limit(0, "error")}


def test_a_data_set_says_it_once_and_keeps_one_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 2 3\n1 2 3 4 5 6 7 8\n\n")

    def manager(too_long: str | None) -> DatasetManager:
        found = DatasetManager(
            Old(),  # type: ignore[arg-type]
            str(path),
            preprocess_function="xlm.data.functional.text_to_input_ids",
            columns_to_keep=["input_ids"],
            too_long=too_long,
            dataloader_kwargs={"batch_size": 1},
        )
        found.label = "train.lm"
        return found

    sizes = {}
    with caplog.at_level(logging.WARNING):
        for policy in ("drop", "split", "truncate", None):
            one = manager(policy)
            one.prepare(TOKENIZER, tmp_path / "cache")
            one.setup(TOKENIZER, tmp_path / "cache")
            assert one.rows is not None
            sizes[policy] = len(one.rows)
    assert sizes == {"drop": 2, "split": 4, "truncate": 3, None: 3}
    assert [m.split(";")[-1].strip() for m in caplog.messages if "tokens that fit" in m] == [
        "1 are dropped.",
        "they are split into 4 examples.",
        "their end is cut off.",
        "the collator decides what happens to them. Set too_long to truncate, drop, split or error.",
    ]
    assert sum("1 of 3 examples are empty" in message for message in caplog.messages) == 4
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1
    with pytest.raises(DataError, match=r"train.lm: 1 of 3 texts .* The first is .*a.txt, line 2"):
        manager("error").prepare(TOKENIZER, tmp_path / "cache")
    with pytest.raises(
        DataError, match=r"Unknown too_long 'cut' of a data set\. Choose one of: error, truncate, drop, split"
    ):
        manager("cut")


def test_the_hash_of_what_was_prepared_follows_the_values_alone(tmp_path: Path) -> None:
    """Not how they are stored: int32 or int64, in one file or several."""

    def digest(name: str, *parts: list[dict[str, Any]]) -> str:
        files = []
        for number, part in enumerate(parts):
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            files += write_rows(folder, part)
        return ArrowRows(files).digest()

    same = digest("a", texts())
    assert same == digest("b", texts())
    others = [
        digest("c", texts()[:-1]),
        digest("d", [*texts()[:-1], {**texts()[-1], "num_bytes": 0}]),
        digest("e", [{**row, "input_ids": row["input_ids"][::-1]} for row in texts()]),
        digest("f", texts([3, 9, 0, 4, 5, 11, 5])),
    ]
    assert len({same, *others}) == 5
