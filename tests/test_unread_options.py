"""An option of a sampler that is said to have no effect has none, any other has one, and what is shipped is silent."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from arlm.datamodule_arlm import ARLMSeq2SeqPredCollator
from arlm.model_arlm import RotaryARLM
from arlm.predictor_arlm import ARLMPredictor
from ilm.datamodule_ilm import ILMSeq2SeqPredCollator
from ilm.model_ilm import RotaryILM
from ilm.predictor_ilm import ILMPredictor
from mdlm.model_mdlm import DiTMDLM
from mdlm.predictor_mdlm import MDLMPredictor
from mlm.model_mlm import RotaryMLM
from mlm.predictor_mlm import MLMPredictor
from workspace import ROOT, read_packages
from xlm.compose import load_config
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.options import unsaid
from xlm.masked.collate import MasksAfterPrompt
from xlm.noise import LogLinearSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
SCHEDULE = LogLinearSchedule()
PROMPTS = [{"prompt_ids": [7 + n % 9] * (n % 4), "input_ids": [7], "noise_seed": 31 * n} for n in range(16)]
SIZES: dict[str, Any] = {"d_model": 16, "num_layers": 1, "nhead": 2, "dropout": 0.0}
COMMON: dict[str, list[Any]] = {"temperature": [0.0, 0.7, 1.5], "top_k": [None, 1, 2], "top_p": [None, 0.5]}
FILTERS = {**COMMON, "min_p": [None, 0.4]}
# Of each family: its network, its predictor, its batches, other values of its options, and settings to start from.
FAMILIES: dict[str, tuple[Any, Any, Any, dict[str, list[Any]], list[dict[str, Any]]]] = {
    "arlm": (
        RotaryARLM, ARLMPredictor, ARLMSeq2SeqPredCollator(TOKENIZER),
        {**FILTERS, "max_length": [3], "repetition_limit": [1]},
        [{"temperature": t, "top_k": k, "max_length": 8} for t in (0.0, 1.0) for k in (None, 1)],
    ),
    "mlm": (
        RotaryMLM, MLMPredictor, MasksAfterPrompt(TOKENIZER, block_size=7), {**FILTERS, "max_steps": [2, None]},
        [{"temperature": t, "top_k": k, "confidence": c}
         for t in (0.0, 1.0) for k in (None, 1) for c in (None, "top_prob")],
    ),
    "mdlm": (
        DiTMDLM, MDLMPredictor, MasksAfterPrompt(TOKENIZER, block_size=7),
        {**FILTERS, "num_steps": [2, 7], "confidence": ["entropy", "prob_diff"], "threshold": [0.2], "remasking": [0.5],
         "context": [1, 5]},
        [{"temperature": t, "num_steps": 5, **options} for t in (0.0, 1.0) for options in (
            {}, {"max_length": 12}, {"sampler": "ancestral"}, {"sampler": "ancestral_every_step", "top_k": 1},
            {"sampler": "confidence"}, {"sampler": "remasking"},
        )],
    ),
    "ilm": (
        RotaryILM, ILMPredictor, ILMSeq2SeqPredCollator(TOKENIZER),
        {**COMMON, "slot_top_k": [None, 1, 2], "slot_top_p": [None, 0.3], "parallel_min_prob": [0.6, 0.0],
         "max_steps": [2]},
        [{"max_length": 8, "stopping_threshold": None, **options} for options in (
            {}, {"temperature": 0.0}, {"temperature": 0.0, "sampling": "joint", "top_k": 1}, {"top_k": 1},
            {"slot_top_k": 1}, {"sampling": "joint"}, {"sampling": "joint", "top_k": 1}, {"parallel_slots": 3},
        )],
    ),
}  # fmt: skip
CASES = [(family, options) for family, (*_, settings) in FAMILIES.items() for options in settings]


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    """Networks of any weights, far from a law that is the same everywhere."""
    networks: dict[str, Any] = {}
    for family, (network, *_) in FAMILIES.items():
        torch.manual_seed(0)
        networks[family] = network(len(TOKENIZER), **SIZES).double().eval()
        with torch.no_grad():
            for parameter in networks[family].parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return networks


def written(family: str, network: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    """What the predictor gives for all prompts, in which order, and its network calls."""
    _, predictor, collate, _, _ = FAMILIES[family]
    with unsaid():
        preds = predictor(TOKENIZER, SCHEDULE, network, seed=5, **options).predict(collate(PROMPTS))
    return tuple(torch.as_tensor(preds[name]).tolist() for name in ("ids", "order", "network_calls") if name in preds)


@pytest.mark.parametrize(("family", "options"), CASES, ids=str)
def test_unread_is_exactly_what_has_no_effect(family: str, options: dict[str, Any], networks: dict[str, Any]) -> None:
    with unsaid():
        unread = FAMILIES[family][1](**options).unread
    base = written(family, networks[family], options)
    for name, values in FAMILIES[family][3].items():
        if options.get("sampling") == "joint" and name.startswith("slot_"):
            continue  # refused there
        others = [written(family, networks[family], {**options, name: value}) for value in values]
        assert (name in unread) == all(other == base for other in others), name


@pytest.mark.parametrize(
    ("predictor", "options", "message"),
    [
        (MDLMPredictor, {"num_steps": 64}, "num_steps=64 has no effect: sampler=first_hitting does not use it."),
        (MDLMPredictor, {"threshold": 0.5, "sampler": "ancestral"},
         "threshold=0.5 has no effect: sampler=ancestral does not use it."),
        (MDLMPredictor, {"context": 3}, "context=3 has no effect: it needs max_length, which is null."),
        (ARLMPredictor, {"top_k": 7}, "top_k=7 has no effect: temperature=0 always takes the most likely token."),
        (MLMPredictor, {"top_k": 1, "min_p": 0.25},
         "min_p=0.25 has no effect: top_k=1 always takes the most likely token."),
        (ILMPredictor, {"parallel_min_prob": 0.3},
         "parallel_min_prob=0.3 has no effect: parallel_slots=1 inserts one token a step."),
    ],
)  # fmt: skip
def test_it_is_said_once(
    predictor: Any, options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        predictor(**options)
    assert caplog.messages == [f"predictor.{message}"]


MODELS = {p.model: p for p in read_packages(ROOT).values() if p.model}
EXPERIMENTS = [
    (name, path.stem)
    for name, package in MODELS.items()
    for path in sorted((package.path / "src" / name / "configs" / "experiment").glob("*.yaml"))
]


@pytest.mark.parametrize(("model", "experiment"), EXPERIMENTS)
def test_no_shipped_experiment_has_anything_to_say(
    model: str, experiment: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = load_config([f"experiment={experiment}"])
    options: Any = OmegaConf.to_container(cfg.predictor, resolve=True)
    target = options.pop("_target_").rpartition(".")[2]
    predictor = {p.__name__: p for _, p, *_ in FAMILIES.values()}[target]
    caplog.set_level(logging.INFO)
    predictor(**options)
    assert caplog.messages == []
