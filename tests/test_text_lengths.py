"""Lengths are learnt and paid for: likelihoods of all texts sum to at most 1, and samples are as long as the data.

The source is known: N ~ U{1 … 4}, then N letters of two. Its entropy is (log 4 + 2.5 log 2) / 3.5 = 0.891 nats for a
token or an end. Networks that know its conditionals stand for MLM and MDLM; networks of all families learn it.

python tests/test_text_lengths.py [family …] prints what families learn of N ~ U{1 … 8} and three letters (1.277 nats).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.predictor_mdlm import MDLMPredictor
from mlm.datamodule_mlm import MasksAfterPrompt, MLMCollator, MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.predictor_mlm import MLMPredictor
from xlm.compose import load_config
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import ConfigError
from xlm.evaluation.continuations import Span, score_spans, score_whole
from xlm.evaluation.likelihood import LikelihoodEstimator, description, likelihood_terms
from xlm.masked.collate import MasksInPlace
from xlm.masked.text_length import FILLED, TextLength
from xlm.modules.length_model import LengthModel
from xlm.noise import LogLinearSchedule
from xlm.utils.instantiate import clear_components, components, instantiate


class KnownSource:
    """N ~ U{1 … longest}, then N letters, each of so many equally likely ones."""

    def __init__(self, longest: int, num_letters: int) -> None:
        self.longest, self.num_letters = longest, num_letters
        self.entropy = (math.log(longest) + (longest + 1) / 2 * math.log(num_letters)) / ((longest + 3) / 2)

    def draw(self, num_texts: int, generator: torch.Generator) -> list[list[int]]:
        lengths = torch.randint(1, self.longest + 1, (num_texts,), generator=generator).tolist()
        letters = 7 + torch.randint(self.num_letters, (num_texts, self.longest), generator=generator)
        return [row[:n] for row, n in zip(letters.tolist(), lengths, strict=True)]


SMALL = KnownSource(longest=4, num_letters=2)
LONGEST, BLOCK, PROMPT = SMALL.longest, SMALL.longest + 2, 9
TEXTS = [text for n in range(LONGEST + 1) for text in itertools.product((7, 8), repeat=n)]
LENGTHS = torch.tensor([len(text) for text in TEXTS])
SOURCE = torch.where(LENGTHS > 0, 1 / LONGEST / 2 ** LENGTHS.double(), 0.0)
TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=3)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{name}_token_id") for name in ("pad", "eos", "bos", "mask"))
ALL_SETS = 2 ** (LONGEST + 1) - 1  # of masks in a row: with so many points a bound is exact


class Oracle(nn.Module):
    """p(x_i | what is visible) of the source, as rows of a collator show it: where padding begins is visible, too."""

    def __init__(self, text_length: TextLength) -> None:
        super().__init__()
        filler = EOS if text_length == "learnt" else PAD
        self.rows = torch.tensor([[*text, EOS, *[filler] * (LONGEST - len(text))] for text in TEXTS])
        # Padding that the network doesn't see is never masked.
        self.may_be_masked = (self.rows != PAD) | (text_length == "lm1b_protocol")
        self.output_layer = nn.Linear(len(TOKENIZER), len(TOKENIZER), bias=False).double()
        with torch.no_grad():
            self.output_layer.weight.copy_(torch.eye(len(TOKENIZER)))
        self.length_model = LengthModel(LONGEST + 1)
        self.length_model.counts[1:] = 10**9
        self.eval()

    def features(self, ids: Tensor, mask: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        width = ids.shape[1]
        ids = torch.nn.functional.pad(ids, (0, max(0, BLOCK - width)), value=PAD)
        shown = ids[:, -(LONGEST + 1) :]
        agrees = ((shown[:, None] == self.rows) | ((shown[:, None] == MASK) & self.may_be_masked)).all(-1)
        weight = agrees * SOURCE
        one_hot = torch.nn.functional.one_hot(self.rows, len(TOKENIZER)).double()
        logits = torch.full((*ids.shape, len(TOKENIZER)), -1e3, dtype=torch.float64)
        known = torch.einsum("bt,tlv->blv", weight, one_hot) / weight.sum(1)[:, None, None]
        logits[:, -(LONGEST + 1) :] = known.nan_to_num(0.0).log().clamp(min=-1e3)
        logits[:, : -(LONGEST + 1), BOS] = 0.0
        return logits[:, :width]


def examples(texts: Sequence[Sequence[int]], first_seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": list(t), "prompt_ids": [PROMPT], "noise_seed": first_seed + n} for n, t in enumerate(texts)]


def masked_family(family: str, text_length: TextLength, with_prompt: bool = False) -> tuple[Any, Any, Any]:
    """Loss, collator and predictor around a network that knows the source."""
    oracle, schedule = Oracle(text_length), LogLinearSchedule()
    options: dict[str, Any] = {"block_size": BLOCK, "text_length": text_length}
    if family == "mlm":
        collate: Any = (MLMSeq2SeqCollator if with_prompt else MLMCollator)(TOKENIZER, **options)
        return MLMLoss(oracle, TOKENIZER), collate, MLMPredictor(TOKENIZER, model=oracle, **options)
    collate = (MDLMSeq2SeqCollator if with_prompt else MDLMCollator)(TOKENIZER, noise_schedule=schedule, **options)
    return MDLMLoss(oracle, TOKENIZER, schedule), collate, MDLMPredictor(TOKENIZER, schedule, oracle, **options)


families = pytest.mark.parametrize("family", ["mlm", "mdlm"])


@families
@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize("text_length", ["learnt", "modelled"])
def test_a_perfect_networks_likelihoods_are_the_sources(
    family: str, text_length: TextLength, with_prompt: bool
) -> None:
    loss, collate, _ = masked_family(family, text_length, with_prompt)
    batch = collate(examples(TEXTS))
    nll = loss.nll_bound(batch, num_points=ALL_SETS)[:, 0]
    possible = SOURCE > 0
    torch.testing.assert_close(nll[possible], -SOURCE[possible].log(), rtol=1e-6, atol=1e-6)
    assert (nll[~possible] > 20).all()
    assert description(loss, batch).name == "nll"
    assert batch["num_tokens"].tolist() == [len(text) + 1 for text in TEXTS]
    per_token = (SOURCE * nll).sum() / (SOURCE * (LENGTHS + 1)).sum()
    assert float(per_token) == pytest.approx(SMALL.entropy, rel=1e-6)


@families
@pytest.mark.parametrize("text_length", ["given", "lm1b_protocol"])
def test_what_pays_for_no_length_is_no_likelihood_and_says_so(family: str, text_length: TextLength) -> None:
    loss, collate, _ = masked_family(family, text_length)
    batch = collate(examples(TEXTS))
    nll = loss.nll_bound(batch, num_points=ALL_SETS)[:, 0]
    assert float((-nll).exp().sum()) > 1.5
    found = description(loss, batch)
    assert found.name == f"nll_{'given_length' if text_length == 'given' else text_length}"
    assert "no likelihood" in found.of
    with pytest.raises(ConfigError, match=f"trained with text_length={text_length}: it is given the length"):
        score_whole(loss, batch, TOKENIZER)
    with pytest.raises(ConfigError, match="a part of a text has no likelihood under"):
        score_spans(loss, batch, [list(t) for t in TEXTS], [Span(0, len(t)) for t in TEXTS], TOKENIZER)


def written(predictor: Any, num_texts: int, given: Sequence[int] = ()) -> Tensor:
    """How often each text of the source was written, and, last, anything else."""
    asked = MasksAfterPrompt(TOKENIZER, BLOCK)([{"input_ids": [], "noise_seed": seed} for seed in range(num_texts)])
    asked["input_ids"][:, 1 : 1 + len(given)] = torch.tensor(given, dtype=torch.int64)
    ids = predictor.predict(asked)["ids"][:, 1:].tolist()
    numbers = {text: n for n, text in enumerate(TEXTS)}
    found = [numbers.get(tuple(token for token in row if token not in (EOS, PAD)), len(TEXTS)) for row in ids]
    return torch.bincount(torch.tensor(found), minlength=len(TEXTS) + 1).double()


def chi_squared(observed: Tensor, p: Tensor) -> float:
    """(χ² − degrees) / √(2 · degrees): about standard normal if that is the law."""
    possible = p > 0
    assert observed[: len(p)][~possible].sum() + observed[len(p) :].sum() == 0, "what the source never gives"
    expected = p[possible] * observed.sum()
    freedom = int(possible.sum()) - 1
    value = ((observed[: len(p)][possible] - expected) ** 2 / expected).sum()
    return float((value - freedom) / (2 * freedom) ** 0.5)


@families
@pytest.mark.parametrize("text_length", ["learnt", "modelled"])
def test_samples_from_nothing_follow_the_source(family: str, text_length: TextLength) -> None:
    *_, predictor = masked_family(family, text_length)
    assert abs(chi_squared(written(predictor, 4000), SOURCE)) < 4


@families
@pytest.mark.parametrize("text_length", ["learnt", "modelled"])  # N does not depend on letters here
def test_what_follows_a_beginning_ends_as_the_source_does(family: str, text_length: TextLength) -> None:
    *_, predictor = masked_family(family, text_length)
    begins = torch.tensor([text[:2] == (7, 8) for text in TEXTS])
    conditional = torch.where(begins, SOURCE, 0) / SOURCE[begins].sum()
    assert abs(chi_squared(written(predictor, 2000, given=(7, 8)), conditional)) < 4


@families
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("context", [(), (7,), (8, 7)])
def test_parts_of_texts_are_scored_as_the_sources_conditionals(
    family: str, context: tuple[int, ...], ends: bool
) -> None:
    """Of 1 to 4 tokens, with and without an end, at every place that the block has."""
    loss, collate, _ = masked_family(family, "learnt")
    rest = [text for text in TEXTS if (text or ends) and len(context) + len(text) in range(1, LONGEST + 1)]
    rows = [[*context, *text, *([EOS] if ends else [])] for text in rest]
    batch = collate(examples([[*context, *text] for text in rest]))
    spans = [Span(len(context), len(row)) for row in rows]
    found = score_spans(loss, batch, rows, spans, TOKENIZER, num_samples=100).terms

    def probability(beginning: Sequence[int], whole: bool) -> float:
        same = [t == tuple(beginning) if whole else t[: len(beginning)] == tuple(beginning) for t in TEXTS]
        return float(SOURCE[torch.tensor(same)].sum())

    truth = [-math.log(probability([*context, *text], whole=ends) / probability(context, whole=False)) for text in rest]
    # Every order of filling gives the same sum here; what is left is the weight of the number of masks.
    error = found.nll.std(1) / 100**0.5
    assert ((found.nll.mean(1) - torch.tensor(truth)).abs() < 4.5 * error + 1e-6).all()
    assert (error[found.num_tokens <= 2] < 1e-6).all(), "few masks are gone through one by one"


@families
@pytest.mark.parametrize("text_length", get_args(TextLength))
def test_texts_with_masks_are_filled_and_shown_without_the_rest_of_the_block(
    family: str, text_length: TextLength
) -> None:
    """One letter is missing, and then one that nothing says: rows, texts and shown prompts have no filling."""
    *_, predictor = masked_family(family, text_length)
    collate = MasksInPlace(TOKENIZER, BLOCK, text_length=text_length)
    asked: Any = [{"prompt_ids": [7, MASK], "input_ids": [7, 8], "noise_seed": n} for n in range(40)]
    batch = collate(asked)
    assert batch["input_ids"].shape[1] == (BLOCK if text_length in FILLED else 4)
    preds = predictor.predict(batch)
    assert {tuple(row) for row in preds["ids"].tolist()} == {
        (BOS, 7, letter, EOS, *[PAD] * (batch["input_ids"].shape[1] - 4)) for letter in (7, 8)
    }
    rows = predictor.to_dict(batch, preds)
    assert {(row["prompt"], row["prediction"], row["truth"]) for row in rows} == {
        ("0 [MASK]", "0 0", "0 1"), ("0 [MASK]", "0 1", "0 1"),
    }  # fmt: skip
    long = " ".join(["0"] * 9 + ["[MASK]"])  # longer than a block, which therefore cannot be filled
    assert set(predictor.generate(["0 [MASK]", "[MASK] 1"] * 4)) <= {"0 0", "0 1", "1 1"}
    assert len(predictor.generate(["0", "0 [MASK]", long])) == 3


def test_the_length_model_travels_with_the_weights(tmp_path: Path) -> None:
    """Counted in training only, kept in state dicts and by save_pretrained; nothing of it without."""
    harness, collate, _ = composed("mlm", "lm", SMALL, ["text_length=modelled"])
    texts = [text for text in TEXTS if text]
    harness.eval()
    harness.loss_function(collate(examples(texts)))
    assert harness.model.length_model.counts.sum() == 0
    train(harness, collate, SMALL, steps=3)
    counts = harness.model.length_model.counts
    assert counts.sum() == 3 * ROWS
    assert counts[[0, BLOCK - 1]].sum() == 0
    harness.model.save_pretrained(tmp_path)
    again = type(harness.model).from_pretrained(tmp_path)
    assert torch.equal(again.length_model.counts, counts)
    plain, *_ = composed("mlm", "lm", SMALL, [])
    assert not [name for name in plain.state_dict() if "length_model" in name]


def test_a_length_model_is_needed_and_has_to_be_long_enough() -> None:
    loss, collate, predictor = masked_family("mlm", "modelled")
    loss.model.length_model = LengthModel(2)
    with pytest.raises(ConfigError, match="has 5 tokens with its end, and the length model knows lengths up to 2: "):
        loss.nll_bound(collate(examples(TEXTS)))
    loss.model.length_model = None
    with pytest.raises(ConfigError, match=r"needs a network with a length model, and Oracle has none"):
        written(predictor, 1)


# Networks of every family that learn a source.
STEPS, ROWS = 500, 64


def composed(family: str, role: str, source: KnownSource, options: Sequence[str]) -> tuple[Any, Any, Any]:
    """A harness, the collator of a role and that of texts from nothing, as shipped configurations say."""
    cfg = load_config(
        [
            f"experiment=text_{family}", f"model=xtiny_{family}", f"block_size={source.longest + 2}", "job_name=t",
            "global_components.tokenizer._target_=xlm.datamodule.SimpleSpaceTokenizer.for_numbers",
            "global_components.tokenizer.vocab_size=3", "~global_components.tokenizer.cache_dir",
            "input_block_size=1", "trainer_strategy=cpu", *options,
            *(["predictor.temperature=1.0"] if family == "arlm" else []),
        ]
    )  # fmt: skip
    cfg.reported_metrics, cfg.diagnostic_metrics, cfg.log_predictions = {}, {}, None
    torch.manual_seed(0)
    tokenizer, schedule = instantiate(cfg.global_components.tokenizer), instantiate(cfg.noise_schedule)
    with components(tokenizer=tokenizer, noise_schedule=schedule):
        harness = instantiate(cfg.lightning_module, cfg, tokenizer=tokenizer, _recursive_=False)
        harness.configure_components()
        return harness, instantiate(cfg.collators[role]), instantiate(cfg.collators.unconditional)


def train(harness: Any, collate: Callable[[Any], Any], source: KnownSource, steps: int = STEPS) -> None:
    """A few hundred batches of the source."""
    optimizer = torch.optim.AdamW(harness.model.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator = torch.Generator().manual_seed(1)
    harness.train()
    for step in range(steps):
        optimizer.zero_grad()
        texts = source.draw(ROWS, generator)
        harness.loss_function(collate(examples(texts, step * ROWS)))["loss"].backward()
        optimizer.step()
        schedule.step()
    harness.eval()


def lengths_of_samples(harness: Any, unconditional: Any, source: KnownSource, num_texts: int) -> Tensor:
    """How many texts from nothing have 0, 1, … longest tokens; and, last, more."""
    asked = unconditional([{"input_ids": [], "noise_seed": seed} for seed in range(num_texts)])
    texts = harness.predictor.predict(asked)["text"]
    lengths = torch.tensor([sum(not word.startswith("[") for word in text.split()) for text in texts])
    return torch.bincount(lengths.clamp(max=source.longest + 1), minlength=source.longest + 2)


def distance(counts: Tensor) -> float:
    """χ² of the lengths 1 … longest against equal shares."""
    counts = counts[1:-1].double()
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.fixture(autouse=True)
def no_components() -> Iterator[None]:
    yield
    clear_components()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["lm", "seq2seq"])
@pytest.mark.parametrize(
    ("family", "options"),
    [("arlm", []), ("ilm", []), ("mlm", []), ("mdlm", []), ("mdlm", ["text_length=modelled"])],
    ids=["arlm", "ilm", "mlm", "mdlm", "mdlm, lengths modelled"],
)
def test_networks_that_learn_the_source_pay_for_lengths_and_sample_them(
    family: str, options: list[str], role: str
) -> None:
    """Σ exp(−bound) ≤ 1 over all texts, the NLL within a few per cent of the entropy, and lengths by χ²."""
    harness, collate, unconditional = composed(family, role, SMALL, options)
    train(harness, collate, SMALL)
    terms = likelihood_terms(harness.loss_function, collate(examples(TEXTS)), num_samples=400)
    # The exponential of a noisy mean is too large by half its variance.
    variance = torch.zeros(1) if terms.exact else terms.nll.var(1) / 400
    nll = terms.nll.mean(1)
    total = float((-nll - variance / 2).exp().sum())
    assert 0.9 < total <= 1.0 + 4 * float((variance * (-2 * nll).exp()).sum()) ** 0.5
    per_token = float((SOURCE * nll).sum() / (SOURCE * (LENGTHS + 1)).sum())
    error = float((SOURCE**2 * variance).sum()) ** 0.5 / float((SOURCE * (LENGTHS + 1)).sum())
    assert SMALL.entropy - 4 * error < per_token < 1.03 * SMALL.entropy
    if role == "lm":
        counts = lengths_of_samples(harness, unconditional, SMALL, 1000)
        assert counts[0] + counts[-1] < 10
        # 16.3 is the 99.9 % quantile of χ² with 3 degrees of freedom; twice that leaves room for what isn't learnt.
        assert distance(counts) < 2 * 16.3


def main(families: Sequence[str]) -> None:
    """What each family and form learns of a larger source in 1,000 steps: NLL per token, lengths of 2,000 samples."""
    source, eight = KnownSource(longest=8, num_letters=3), " | ".join(map(str, range(1, 9)))
    forms: dict[str, list[str]] = {"arlm": [""], "ilm": [""], "mlm": ["learnt", "modelled", "given"]}
    forms["mdlm"] = [*forms["mlm"], "lm1b_protocol"]
    print(f"entropy {source.entropy:.4f}\n\n| family | lengths | name | nats per token ± s.e. | {eight} | χ² (7) |")
    for family in families:
        for form in forms[family]:
            harness, collate, unconditional = composed(family, "lm", source, [f"text_length={form}"] if form else [])
            train(harness, collate, source, steps=1000)
            batch = collate(examples(source.draw(4000, torch.Generator().manual_seed(2))))
            estimator = LikelihoodEstimator()
            estimator.update(likelihood_terms(harness.loss_function, batch, num_samples=4))
            found, counts = estimator.compute(), lengths_of_samples(harness, unconditional, source, 2000)
            name = description(harness.loss_function, batch).name
            shares = " | ".join(f"{share:.3f}" for share in (counts[1:-1] / counts.sum()).tolist())
            value = f"{'' if found.exact else '≤ '}{found.nll:.4f} ± {found.standard_error:.4f}"
            print(f"| {family} | {form} | {name} | {value} | {shares} | {distance(counts):.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["arlm", "ilm", "mlm", "mdlm"])
