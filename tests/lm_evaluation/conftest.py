"""Models of every family with random weights on nine words, for lm-evaluation-harness."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import xlm
from xlm.compose import load_config
from xlm.lm_eval.model import XLMForLMEval
from xlm.training.weights import save_folder
from xlm.utils.instantiate import clear_components, components, instantiate

NUMBERS = (
    "global_components.tokenizer._target_=xlm.datamodule.SimpleSpaceTokenizer.for_numbers",
    "global_components.tokenizer.vocab_size=9", "~global_components.tokenizer.cache_dir", "block_size=12",
)  # fmt: skip
SEED = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Folders of networks with random weights, on nine words."""
    made: dict[tuple[str, ...], Path] = {}
    root = tmp_path_factory.mktemp("models")

    def make(*choice: str) -> Path:
        if choice not in made:
            cfg = load_config([*choice, "job_name=t", "trainer_strategy=cpu"])
            tokenizer = instantiate(cfg.global_components.tokenizer)
            torch.manual_seed(SEED)
            with components(tokenizer=tokenizer, noise_schedule=None):
                network = instantiate(cfg.model)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            made[choice] = save_folder(root / str(len(made)), network, cfg, tokenizer)
        return made[choice]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield make
    clear_components()


def texts_of(family: str) -> tuple[str, ...]:
    return (f"experiment=text_{family}", f"model=xtiny_{family}", *NUMBERS)


@pytest.fixture
def folder_of_texts(folder: Callable[..., Path]) -> Callable[[str], Path]:
    """The folder of a family's model of whole texts."""
    return lambda family: folder(*texts_of(family))


@pytest.fixture
def of_texts(folder: Callable[..., Path]) -> Callable[..., XLMForLMEval]:
    """A model of whole texts of a family."""
    return lambda family, *choice, **more: XLMForLMEval(loaded(folder(*texts_of(family), *choice)), **more)


@pytest.fixture
def of_answers(folder: Callable[..., Path]) -> Callable[..., XLMForLMEval]:
    """A model of prompts and answers of a family."""
    return lambda family, **more: XLMForLMEval(
        loaded(folder(f"experiment=star_easy_{family}", f"model=xtiny_{family}", "block_size=8", "input_block_size=6")),
        **more,
    )


@functools.cache
def loaded(path: Path) -> xlm.TrainedModel:
    return xlm.load(path)
