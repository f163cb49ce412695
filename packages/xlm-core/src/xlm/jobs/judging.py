"""Quality of the texts that a run's model writes from nothing: for `xlm eval` and `xlm sweep_sampler`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xlm.data.manager import UnconditionalGenerationDatasetManager
from xlm.errors import ConfigError
from xlm.evaluation.text_quality.diversity import Overlap, add_all
from xlm.evaluation.text_quality.measure import Quality, measure
from xlm.evaluation.text_quality.scorer import PROTOCOLS, WINDOW, Judge, Protocol, load_judge
from xlm.evaluation.text_quality.texts import Estimate, WrittenText, examples_of
from xlm.jobs.options import fewer_than_asked
from xlm.jobs.session import Session
from xlm.jobs.text_files import texts_rows
from xlm.schemas import Judged

# Of the training data, so many examples are compared with at most, unless more are asked for.
TRAIN_EXAMPLES = 100_000


def loaders_of_texts(session: Session, split: str) -> list[str]:
    """The loaders that ask for texts from nothing; none where tokens are no text."""
    if not getattr(session.tokenizer, "is_text", True):
        return []
    managers = session.datamodule.dataset_managers[split]
    return [name for name, manager in managers.items() if isinstance(manager, UnconditionalGenerationDatasetManager)]


def judge_of(options: Judged, section: str, loaders: Sequence[str], split: str) -> str | None:
    """The name of the judge that the options ask for.

    Raises:
        ConfigError: there are no texts to judge.
    """
    if options.judge and not loaders:
        raise ConfigError(
            f"{section}.judge judges texts written from nothing, and datamodule.dataset_managers.{split} has no loader "
            "that asks for any (xlm.datamodule.UnconditionalGenerationDatasetManager).",
            key=f"{section}.judge",
        )
    return str(options.judge) if options.judge else None


@dataclass(frozen=True)
class Judging:
    """Measures texts by a judge, if there is one, and against the training data; all else in the model's own tokens.

    Args:
        judge: None for what needs no judge.
        train_examples: how many training examples texts are compared with; 0: none.
        asked: the same where somebody said it.
    """

    session: Session
    judge: Judge | None
    train_examples: int
    asked: int | None = None

    @classmethod
    def of(cls, session: Session, options: Judged, judge: str | None, device: torch.device) -> Judging:
        """As the options of a job say; without a judge, training data are looked at only if they are asked for."""
        asked = options.train_examples
        loaded = load_judge(judge, device, options.judge_window or WINDOW, options.judge_protocol) if judge else None
        default = TRAIN_EXAMPLES if judge and session.datamodule.dataset_managers["train"] else 0
        return cls(session, loaded, default if asked is None else asked, asked)

    def measure(self, texts: Mapping[str, Sequence[WrittenText]]) -> tuple[dict[str, Quality], dict[str, Any]]:
        """Quality of each list of texts, and what it depends on.

        Raises:
            DataError: training data are asked for, and there are none of texts.
        """
        rows = {name: [text.tokens or () for text in found] for name, found in texts.items()}
        overlaps = {name: Overlap(found) for name, found in rows.items()} if self.train_examples else {}
        training = None
        if overlaps:
            train = texts_rows(self.session.datamodule, "train")
            add_all(list(overlaps.values()), examples_of(train, self.session.tokenizer, None, self.train_examples))
            training = training_of(next(iter(overlaps.values())), self.asked)
        found = {
            name: measure(
                [text.text for text in written],
                rows[name],
                ended=[text.ended for text in written],
                judge=self.judge,
                overlap=overlaps.get(name),
            )
            for name, written in texts.items()
        }
        told = self.judge.describe() if self.judge else None
        return found, {"judge": told, "unit": "tokens of the model", "training": training}


def named(split: str, qualities: Mapping[str, Quality]) -> dict[str, Estimate]:
    """All numbers as an evaluation names them: `split/loader/number`."""
    return {f"{split}/{name}/{key}": e for name, found in qualities.items() for key, e in found.numbers.items()}


def training_of(overlap: Overlap, asked: int | None) -> dict[str, int]:
    """What texts were compared with, for the record; with what was asked for where there is less."""
    found = {"examples": overlap.num_examples, "tokens": overlap.num_tokens}
    return {**found, "asked": asked} if asked is not None and overlap.num_examples < asked else found


def caption(record: Mapping[str, Any]) -> str:
    """What the numbers of a table mean, in a line."""
    judge, training = record["judge"], record["training"]
    parts = [f"Entropy in nats, lengths and n-grams in {record['unit']}."]
    if judge:
        protocol: Protocol = judge["protocol"]
        parts.insert(
            0,
            f"Perplexity under {judge['name']} ({judge['parameters']:,} parameters), protocol {protocol}: "
            f"{PROTOCOLS[protocol]}.",
        )
    if training:
        parts.append(f"Copied: found in {training['examples']:,} training texts ({training['tokens']:,} tokens).")
        parts.append(fewer_than_asked("train_examples", training.get("asked"), training["examples"], "training texts"))
    return " ".join(filter(None, parts))
