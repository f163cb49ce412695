"""Blanks and continuations with every family on real text: each fills what it can, and says what it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import xlm
from workspace import ROOT, read_packages
from xlm.commands import train
from xlm.compose import load_config
from xlm.data.pretrained_tokenizers import load_auto_tokenizer
from xlm.data.tokenizers import fingerprint
from xlm.errors import ConfigError
from xlm.tasks.text import read_verses
from xlm.tasks.text.tokenizer import king_james_tokenizer
from xlm.utils.instantiate import clear_components, components

MODELS = [p.model for p in read_packages(ROOT).values() if p.model]
KNOWN = {"mlm", "mdlm"}
SMALL = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "test_after_training=false",
    "per_device_batch_size=8", "trainer_strategy=cpu", "block_size=32", "loggers=debug",
    "global_components.tokenizer.vocab_size=400", "data_files.train=verses.txt", "data_files.val=verses.txt",
    "datamodule.dataset_managers.val.unconditional_prediction.num_examples=1", "too_long=truncate",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a few verses, since dividing all of them takes most of a minute."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "verses.txt").write_text("".join(f"{verse.text}\n" for verse in read_verses("train")[:40]))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def lm(request: pytest.FixtureRequest, folder: Path) -> Iterator[xlm.TrainedModel]:
    """A network after two steps, on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XLM_CACHE_DIR", str(folder / "cache"))
        choice = (f"experiment=text_{request.param}", f"model=xtiny_{request.param}", f"job_name={request.param}")
        train.run(load_config([*choice, *SMALL]))
        clear_components()
        yield xlm.load(Path("runs", request.param), seed=1)


def test_blanks_inside_a_text(lm: xlm.TrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    family = str(lm.config.model_name)
    text, known = "And God ___ the light.", "And God ___[2] the light."
    if family == "arlm":
        for blank in (text, known):
            with pytest.raises(ConfigError, match=r"arlm cannot fill any: .* no role 'infill'; it can only continue"):
                lm.infill(blank)
        return
    filled, refused = (known, text) if family in KNOWN else (text, known)
    (sample,) = lm.samples(filled, seed=3, mode="infill")
    assert (sample.text[:7], sample.text[-11:]) == ("And God", " the light.")
    assert sample.network_calls is not None
    assert sample.network_calls > 0
    assert lm.generate(filled, seed=3) == lm.infill(filled, seed=3) == [sample.text]
    with pytest.raises(ConfigError, match="known length only" if family in KNOWN else "chooses the length"):
        lm.infill(refused)
    if family in KNOWN:
        assert lm.generate(text, seed=3) == lm.infill("And God ___[3] the light.", seed=3)
        assert "so ___ is read as ___[3] here" in caplog.text


def test_a_blank_at_the_end_goes_on_with_the_text(lm: xlm.TrainedModel) -> None:
    (whole,) = lm.infill("In the beginning ___", seed=3)
    assert whole.startswith("In the beginning")
    if lm.config.model_name != "ilm":  # which fills a gap there, and so draws otherwise
        assert whole == "In the beginning" + lm.continue_text("In the beginning", seed=3)[0]


# Options under which the sampler of each family draws nothing.
GREEDY = {
    "arlm": {}, "mlm": {"confidence": "top_prob"}, "mdlm": {"sampler": "confidence"},
    "ilm": {"stopping_threshold": 0.9},
}  # fmt: skip


def test_several_samples_of_a_greedy_sampler_are_drawn(
    lm: xlm.TrainedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    greedy = {"temperature": 0, **GREEDY[str(lm.config.model_name)]}
    with components(**lm._writer.live):
        predictor = lm.harness.predictor_with(greedy)
        assert not lm.harness.predictor_with({"temperature": 0.5}).is_greedy
    assert predictor.is_greedy
    assert len(set(lm.generate("In the", 3, seed=1, **greedy))) == 1  # as chosen for this call
    monkeypatch.setattr(lm.harness, "predictor", predictor)
    assert len(set(lm.generate("In the", 3, seed=1))) > 1
    assert caplog.text.count("so these samples are drawn with temperature 1") == 1
    lm.generate(["In the", "And"], seed=1)
    assert len(caplog.records) == 1


def test_a_run_contains_its_tokenizer(lm: xlm.TrainedModel, folder: Path) -> None:
    stored = load_auto_tokenizer(str(folder / "runs" / str(lm.config.model_name) / "tokenizer"))
    trained = king_james_tokenizer(400, folder / "cache")
    # Prepared data belong to both.
    assert fingerprint(lm.tokenizer) == fingerprint(stored) == fingerprint(trained)


def test_a_moved_run_is_whole(lm: xlm.TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded without the cache and without the package that has the data."""
    text = lm.generate("In the", seed=4)
    moved = shutil.copytree(Path("runs", str(lm.config.model_name)), tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XLM_CACHE_DIR")
    monkeypatch.setattr("xlm.tasks.text.tokenizer.king_james_tokenizer", None)
    assert xlm.load(moved).generate("In the", seed=4) == text
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_a_text_longer_than_the_block(lm: xlm.TrainedModel) -> None:
    with pytest.raises(ConfigError, match=r"has \d+ tokens, and this model takes at most 31 \(block_size\)"):
        lm.generate("verily " * 30)
