"""Stories from published files, and their middle sentence as a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlm.data.trained_tokenizer import train_tokenizer
from xlm.errors import DataError
from xlm.tasks.corpus_files import corpus_tokenizer
from xlm.tasks.stories import Stories, middle_missing, sentences_of

READER = "xlm.tasks.stories.Stories"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Stories as TinyStories has them: several lines each, with a separator that may end a line."""
    path = tmp_path / "TinyStories.txt"
    stories = [f'Tom had {i} cats.\n\nAnn said, "Give me one!" He did. They played.' for i in range(200)]
    path.write_text("\n<|endoftext|>\n".join(stories) + "<|endoftext|>\nToo short.\n<|endoftext|>\n\n<|endoftext|>\n")
    return path


def all_of(path: Path, **options: Any) -> dict[str, list[str]]:
    return {s: [row["text"] for row in Stories(split=s, path=str(path), **options)] for s in ("train", "val", "test")}


def test_splits_are_disjoint_and_complete(tiny: Path) -> None:
    found = all_of(tiny)
    every = [text for texts in found.values() for text in texts]
    assert len(every) == len(set(every)) == 200
    assert len(found["train"]) > 150
    assert found["val"]
    assert found["test"]
    assert all(text.startswith("Tom had ") and text.endswith("They played.") for text in every)
    assert [row["text"] for row in Stories(None, 5, path=str(tiny))] == found["train"][:5]
    assert len([text for texts in all_of(tiny, min_sentences=1).values() for text in texts]) == 201
    # A story that is twice in the file is in one split.
    tiny.write_text(tiny.read_text() * 2)
    assert {split: set(texts) for split, texts in all_of(tiny).items()} == {s: set(t) for s, t in found.items()}


def test_a_seed_changes_only_the_order(tiny: Path) -> None:
    plain, shuffled, again = (all_of(tiny, seed=seed)["train"] for seed in (None, 3, 3))
    assert sorted(plain) == sorted(shuffled)
    assert plain != shuffled == again


def test_a_table_of_five_sentences(tmp_path: Path) -> None:
    path = tmp_path / "roc.csv"
    names = [f"sentence{i}" for i in range(1, 6)]
    path.write_text(",".join(["storyid", *names]) + "\n" + 'a,One.,Two.,"Three, 3.",Four.,Five.\n')
    assert [text for texts in all_of(path).values() for text in texts] == ["One. Two. Three, 3. Four. Five."]
    path.write_text("storyid,sentence1,sentence2\na,One.,Two.\n")
    with pytest.raises(DataError, match=r"roc\.csv, line 2: the column 'sentence3' is missing; it has: storyid"):
        all_of(path)


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="Stories: give the file of the corpus, corpus_file=PATH"):
        Stories()
    with pytest.raises(DataError, match=r"Stories has no split 'dev'\. Choose one of: train, val, test"):
        Stories(split="dev", path="a.txt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ('He said "No." Then\n\nhe left...  Yes', ['He said "No."', " Then\n\nhe left...", "  Yes"]),
        ("It cost 3.50 today. ", ["It cost 3.50 today. "]),
        ("no end", ["no end"]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences_of(text) == expected
    assert "".join(expected) == text


def test_only_the_middle_sentence_is_missing() -> None:
    tokenizer = train_tokenizer(["One two. Three four! Five six."], vocab_size=270)
    text = "One two. Three four! Five six."
    example = middle_missing({"text": text}, tokenizer)
    assert tokenizer.decode(example["input_ids"]) == text
    assert example["num_bytes"] == len(text)
    shown = [i for i in example["prompt_ids"] if i != tokenizer.mask_token_id]
    assert tokenizer.decode(shown) == "One two. Five six."
    hidden = [i for i, p in zip(example["input_ids"], example["prompt_ids"], strict=True) if i != p]
    assert tokenizer.decode(hidden) == " Three four!"
    # Of four sentences, the third.
    four = middle_missing({"text": "A. B. C. D."}, tokenizer)
    assert tokenizer.decode([i for i in four["prompt_ids"] if i != tokenizer.mask_token_id]) == "A. B. D."
    with pytest.raises(DataError, match="needs three sentences, one of them to be missing, but this one has 2"):
        middle_missing({"text": "A. B."}, tokenizer)
    with pytest.raises(DataError, match="the column 'text' is missing; it has: body"):
        middle_missing({"body": "A. B."}, tokenizer)


def test_the_tokenizer_is_trained_on_the_training_stories_and_kept(tiny: Path, tmp_path: Path) -> None:
    first = corpus_tokenizer(READER, {"path": str(tiny)}, vocab_size=300, cache_dir=tmp_path / "cache")
    (stored,) = (tmp_path / "cache").glob("bpe-Stories-train-*.json")
    again = corpus_tokenizer(READER, {"path": str(tiny)}, vocab_size=300, cache_dir=tmp_path / "cache")
    assert again.get_vocab() == first.get_vocab()
    assert len(first) <= 300
    first.save_pretrained(str(tmp_path / "saved"))
    read = corpus_tokenizer(READER, {}, tokenizer=str(tmp_path / "saved"))
    assert read.get_vocab() == first.get_vocab()
    tiny.write_text(tiny.read_text().replace("cats", "dogs"))
    corpus_tokenizer(READER, {"path": str(tiny)}, vocab_size=300, cache_dir=tmp_path / "cache")
    assert len([*stored.parent.glob("bpe-*.json")]) == 2
