"""Every shipped generated task: its examples fit its lengths and vocabulary; its judge accepts them, and no garbage."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from xlm.commands import prepare_data
from xlm.compose.load import load_config
from xlm.data.sources import GeneratorSource
from xlm.tasks.generated import GeneratedExamples
from xlm.utils.imports import get_object
from xlm.utils.instantiate import instantiate

MODELS = Path(__file__).parents[1] / "models"
CONFIGS = Path(prepare_data.__file__).parents[1] / "configs" / "lightning_train"
TASKS = sorted(path.stem for path in (CONFIGS / "datamodule").glob("*.yaml") if "generated_pairs" in path.read_text())
DRAWN = [name for name in TASKS if "trace_view" in (CONFIGS / "datamodule" / f"{name}.yaml").read_text()]
# Few: a sixteenth of all examples is drawn for val.
NUM_EXAMPLES = {"train": 24, "val": 2, "test": 2}

pytestmark = pytest.mark.usefixtures("fresh_process")


class Task:
    """A task at one difficulty, as its configuration describes it."""

    def __init__(self, cfg: DictConfig, difficulty: str) -> None:
        self.cfg = cfg.copy()
        self.cfg.difficulty = difficulty
        self.tokenizer = instantiate(cfg.global_components.tokenizer)
        self.judge = get_object(cfg.task.judge)

    def plain(self, key: str) -> dict[str, Any]:
        found = OmegaConf.to_container(OmegaConf.select(self.cfg, key), resolve=True)
        assert isinstance(found, dict)
        return {str(name): value for name, value in found.items()}

    @cache  # noqa: B019 - one object per task and level
    def examples(self, split: str, number: int | None = None) -> list[dict[str, Any]]:
        number = NUM_EXAMPLES[split] if number is None else number
        source = GeneratorSource(self.cfg.task.generator, number, {**self.plain("task.options"), "split": split})
        return list(source.rows(self.tokenizer))

    def ids(self, example: dict[str, Any]) -> dict[str, list[int]]:
        options = self.plain("task.preprocess_options")
        found: dict[str, list[int]] = get_object(self.cfg.task.preprocess)(example, self.tokenizer, **options)
        return found

    def pairs(self, split: str = "train") -> list[tuple[str, str]]:
        """Prompts and answers as a model's predictions have them."""
        ids = map(self.ids, self.examples(split))
        return [tuple(self.tokenizer.decode(row[name]) for name in ("prompt_ids", "input_ids")) for row in ids]  # type: ignore[misc]

    def accepts(self, prompt: str, answer: str) -> bool:
        verdict = self.judge(prompt, answer, None, **self.plain("task.judge_options"))
        assert isinstance(verdict, bool)
        return verdict


@cache
def composed(name: str) -> DictConfig:
    environ = {"XLM_MODELS_PATH": str(MODELS)}
    return load_config([f"experiment={name}", "model_type=bigram", "model=bigram"], environ=environ, cwd=MODELS)


@cache
def levels(name: str) -> list[Task]:
    cfg = composed(name)
    return [Task(cfg, str(difficulty)) for difficulty in cfg.task.levels]


def test_all_tasks_are_found() -> None:
    assert len(TASKS) >= 8


@pytest.mark.parametrize("name", TASKS)
def test_examples_fit_lengths_and_vocabulary_and_are_valid(name: str) -> None:
    cfg = composed(name)
    generator = get_object(cfg.task.generator)
    assert issubclass(generator, GeneratedExamples)
    assert list(cfg.task.levels) == list(generator.difficulties)
    for task in levels(name):
        longest = {"prompt_ids": 0, "input_ids": 0}
        for split in ("train", "val", "test"):
            for example in task.examples(split):
                ids = task.ids(example)
                assert task.tokenizer.unk_token_id not in ids["prompt_ids"] + ids["input_ids"]
                longest = {key: max(n, len(ids[key])) for key, n in longest.items()}
            assert all(task.accepts(*pair) for pair in task.pairs(split))
        assert longest["prompt_ids"] <= task.cfg.input_block_size
        assert longest["input_ids"] + 2 <= task.cfg.block_size  # BOS and EOS
        # Not much room is wasted either.
        assert longest["input_ids"] + 2 >= 0.6 * task.cfg.block_size


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_deterministic_and_splits_disjoint(name: str) -> None:
    for task in levels(name):
        rows = {split: task.examples(split) for split in ("train", "val", "test")}
        assert task.examples("train", 7) == rows["train"][:7]
        generator = get_object(task.cfg.task.generator)(None, 1, **task.plain("task.options"))
        contents = {split: {generator.content(row) for row in found} for split, found in rows.items()}
        assert {split: len(found) for split, found in contents.items()} == NUM_EXAMPLES
        assert len(set.union(*contents.values())) == sum(NUM_EXAMPLES.values())


@pytest.mark.parametrize("name", TASKS)
def test_no_other_text_is_valid_and_none_is_an_exception(name: str) -> None:
    task = levels(name)[-1]
    pairs = task.pairs()
    words = [word for word in task.tokenizer.get_vocab() if word not in task.tokenizer.all_special_tokens]
    texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(words), max_size=120).map(" ".join))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(pairs), texts, texts)
    def judged(pair: tuple[str, str], text: str, other: str) -> None:
        prompt, answer = pair
        assert not task.accepts(prompt, "")
        assert not task.accepts(prompt, " ".join([answer] * 40))
        assert not task.accepts(prompt, f"{answer} [UNK]")
        # A sentence without a beginning, and a full board without clues, may be valid.
        assert not task.accepts("", answer) or name in ("grammar", "sudoku", "sudoku_extreme")
        if task.accepts(prompt, text):  # by luck: another completion of a short prompt
            assert set(text.split()) <= set(words) or name == "arithmetic"
        task.accepts(text, other)

    judged()


@pytest.mark.parametrize("name", DRAWN)
def test_prompts_can_be_drawn(name: str) -> None:
    view = get_object(composed(name).trace_view)
    for task in levels(name):
        for prompt, answer in task.pairs()[:3]:
            drawing = view(prompt)
            assert json.loads(json.dumps(drawing)) == drawing
            if "right" in drawing:
                assert [word for row in drawing["right"] for word in row] == answer.split()
    assert view("") is None
    assert view("no prompt; at all") is None
