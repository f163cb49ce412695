"""MAUVE distinguishes texts like the reference from others, and its errors are clear."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xlm.commands.text_quality import judged, read_request
from xlm.commands.words import read_command
from xlm.errors import ConfigError
from xlm.evaluation.text_quality import Scorer
from xlm.evaluation.text_quality.scorer import mauve

CATS = [f"the cat sat on a mat {'and ran ' * n}".strip() for n in range(20)]


def test_features_are_the_last_hidden_vectors_whatever_the_batch(judge: Scorer) -> None:
    texts = ["the cat", "", "the cat sat on a mat and dog ran far " * 2]
    for text, row in zip(texts, judge.features(texts, batch_size=2), strict=True):
        ids = [judge.context_id, *judge.tokenizer(text, add_special_tokens=False)["input_ids"]][:16]
        with torch.no_grad():
            hidden = judge.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
        assert row == pytest.approx(hidden[0, -1].numpy(), abs=1e-4)


def test_like_texts_score_higher_than_others_and_the_same_each_time(judge: Scorer) -> None:
    like, unlike = mauve(CATS[::-1], CATS, judge), mauve(["dog"] * 20, CATS, judge)
    assert like.value is not None
    assert unlike.value is not None
    assert 0 <= unlike.value < 0.5 < like.value <= 1
    assert (like.se, like.n) == (None, 20)
    assert mauve(CATS[::-1], CATS, judge) == like
    with pytest.raises(ConfigError, match="at least two texts"):
        mauve(["the"], CATS, judge)


def test_the_command_tells_it_beside_the_perplexity(judge_folder: Path, tmp_path: Path) -> None:
    for name, texts in (("mine.txt", CATS[5:]), ("theirs.txt", CATS)):
        (tmp_path / name).write_text("\n".join(texts) + "\n")
    asked = [f"judge={judge_folder}", f"reference={tmp_path / 'theirs.txt'}", "mauve=true", "device=cpu"]
    found, _, _ = judged(read_request(*read_command(["text_quality", str(tmp_path / "mine.txt"), *asked])))
    mine, theirs = found.values()
    value = mine.numbers["mauve"].value
    assert value is not None
    assert 0 <= value <= 1
    assert np.isfinite(mine.numbers["judge_perplexity"].value or np.nan)
    assert (mine.n, theirs.n, "mauve" in theirs.numbers) == (15, 15, False)


def test_what_it_needs_is_said_in_one_sentence(judge: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="It needs judge=… and reference=…"):
        read_request(*read_command(["text_quality", "a.txt", "mauve=true"]))
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ConfigError, match=r'pip install "xlm-core\[mauve\]"'):
        mauve(CATS, CATS, judge)
    with pytest.raises(ConfigError, match="xlm-core"):
        judged(read_request(*read_command(["text_quality", "a.txt", "mauve=true", "judge=b", "reference=c"])))
