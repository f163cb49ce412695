"""The tokenizer of the King James Bible: complete, lossless, reproducible, trained once, written atomically."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.data import trained_tokenizer
from xlm.data.tokenizers import fingerprint
from xlm.errors import DataError
from xlm.tasks.text import read_verses, tokenizer
from xlm.tasks.text.tokenizer import KingJamesTokenizer, king_james_tokenizer


def test_every_verse_comes_back_as_it_was(kjv_tokenizer: KingJamesTokenizer) -> None:
    texts = [verse.text for verse in read_verses()]
    ids = kjv_tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert kjv_tokenizer.batch_decode(ids) == texts
    assert kjv_tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    # A sentence of another book, in another script: bytes are always there.
    assert kjv_tokenizer.decode(kjv_tokenizer.encode("Ἐν ἀρχῇ  ἦν", add_special_tokens=False)) == "Ἐν ἀρχῇ  ἦν"


def test_it_has_every_special_token_and_the_asked_size(kjv_tokenizer: KingJamesTokenizer) -> None:
    ids = [getattr(kjv_tokenizer, f"{role}_token_id") for role in ("pad", "cls", "mask", "eos", "bos", "sep", "unk")]
    assert len(set(ids)) == 7
    assert None not in ids
    assert len(kjv_tokenizer) == kjv_tokenizer.full_vocab_size == 2048 == max(ids) + 1
    assert sorted(kjv_tokenizer.get_vocab().values()) == list(range(2048))


def test_it_has_learnt_from_the_training_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tokenizer, "read_verses", lambda split: asked.append(split) or read_verses(split)[:50])
    king_james_tokenizer(300)
    assert asked == ["train"]


def test_a_mask_stands_for_a_word_with_its_blank(kjv_tokenizer: KingJamesTokenizer) -> None:
    plain = kjv_tokenizer.encode("and the earth", add_special_tokens=False)
    for prompt in ("and [MASK] earth", "and[MASK] earth"):
        ids = kjv_tokenizer.encode(prompt, add_special_tokens=False)
        assert ids == [plain[0], kjv_tokenizer.mask_token_id, plain[2]]
    assert kjv_tokenizer.decode(ids) == "and[MASK] earth"


def test_another_process_trains_the_same(kjv_tokenizer: KingJamesTokenizer) -> None:
    program = (
        "from xlm.data.tokenizers import fingerprint\n"
        "from xlm.tasks.text.tokenizer import king_james_tokenizer\n"
        "print(fingerprint(king_james_tokenizer()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == fingerprint(kjv_tokenizer)


def test_it_is_trained_once(
    kjv_tokenizer: KingJamesTokenizer, kjv_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: path.stat().st_mtime_ns for path in kjv_cache.iterdir()}
    assert [path.name.startswith("kjv-bpe-2048-") for path in files] == [True]
    monkeypatch.setattr(trained_tokenizer, "_written", None)
    assert fingerprint(king_james_tokenizer(cache_dir=kjv_cache)) == fingerprint(kjv_tokenizer)
    assert {path: path.stat().st_mtime_ns for path in kjv_cache.iterdir()} == files


def test_what_shapes_it_names_it(kjv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tokenizer._key(2048), tokenizer._key(1024)]
    monkeypatch.setattr(trained_tokenizer.tokenizers, "__version__", "0.0.0")
    keys.append(tokenizer._key(2048))
    monkeypatch.setattr(tokenizer, "corpus_hash", lambda: "another text")
    keys.append(tokenizer._key(2048))
    assert len(set(keys)) == 4


@pytest.mark.parametrize("damage", ["not json", "[]", '{"tokenizer": "x"}', '{"tokenizer": "x", "sha256": "y"}'])
def test_a_damaged_file_is_named_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "read_verses", lambda split: read_verses("val")[:50])
    good = king_james_tokenizer(300, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_text()
    path.write_text(damage)
    with caplog.at_level(logging.WARNING):
        again = king_james_tokenizer(300, cache_dir=tmp_path)
    assert f"The tokenizer in {path} cannot be used" in caplog.text
    assert fingerprint(again) == fingerprint(good)
    assert json.loads(path.read_text()) == json.loads(content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_vocabulary_without_room_for_merges_is_refused() -> None:
    with pytest.raises(DataError, match="vocab_size must be above 263: all bytes and special tokens; got 263"):
        king_james_tokenizer(263)
