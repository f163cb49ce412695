"""A trained left-to-right model as scorer: how likely each text is under it, and MAUVE from its features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from xlm.errors import ConfigError
from xlm.evaluation.text_quality.texts import Estimate, cut_text

# Which tokens of a text are scored, see `Scorer`.
Protocol = Literal["xlm", "mdlm"]
PROTOCOLS: dict[Protocol, str] = {
    "xlm": "a context token before each text; the first token is scored, the end is not",
    "mdlm": "no context token; the first token is not scored, the EOS is scored if the text ended",
}
# The default window: tokens that the judge reads at once, including its context token.
WINDOW = 1024
BATCH_SIZE = 32
# Logits (float32) of one batch; three copies are in memory.
_MOST_LOGITS = 1 << 26
IGNORE = -100


class Scores(NamedTuple):
    """−log p of each text in nats, and the number of the judge's tokens that were scored, (N,) each; 0 if empty."""

    nll: Float64[np.ndarray, " texts"]
    num_tokens: Int64[np.ndarray, " texts"]


class _Piece(NamedTuple):
    """A part of a text that the judge reads at once, and the tokens scored there (-100: read only)."""

    text: int
    inputs: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Scorer:
    """A causal language model of transformers with its tokenizer.

    Args:
        name: the path or id that the user gave.
        model: in evaluation mode on its device.
        tokenizer: its own.
        context_id: comes before every text, so that the first token is scored too.
        window: the most tokens that it reads at once.
        protocol: the tokens that are scored. "xlm": all tokens of a text, after the context token, but not its end.
            "mdlm": as in published results of diffusion models since MDLM (Sahoo et al. 2024, arXiv 2406.07524), all
            but a text's first token, which has no context, and the EOS that ends it.
        eos_id: that EOS; only for the protocol "mdlm".
    """

    name: str
    model: Any
    tokenizer: Any
    context_id: int
    window: int
    protocol: Protocol = "xlm"
    eos_id: int | None = None

    def named(self, number: str) -> str:
        """The name of a number that depends on the protocol, so that numbers of two protocols never share a name."""
        return number if self.protocol == "xlm" else f"{number}_{self.protocol}"

    @property
    def vocab_size(self) -> int:
        """The number of tokens that it predicts."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def score(self, texts: Sequence[str], batch_size: int = BATCH_SIZE, ended: Sequence[bool | None] = ()) -> Scores:
        """Score every token of every text that the protocol covers, in the order of the texts; nothing is cut off.

        A text longer than the window is read in windows that overlap by half: each token is scored once, with at least
        half a window of context.

        Args:
            texts: without special tokens, including empty ones. With "mdlm", a text ends where it spells out EOS.
            batch_size: the most pieces that are read at once.
            ended: whether each text was ended by its writer; True if unknown. Used for "mdlm" only.
        """
        rows = [self._read(*row) for row in zip(self._tokens(texts), ended or [None] * len(texts), strict=True)]
        nll = np.zeros(len(rows))
        pieces = [piece for text, ids in enumerate(rows) for piece in self._pieces(text, ids)]
        # Texts of similar length together, to save padding, and the longest first, so that memory errors come early.
        pieces.sort(key=lambda piece: -len(piece.inputs))
        while pieces:
            width = len(pieces[0].inputs)
            fitting = max(1, _MOST_LOGITS // (width * self.vocab_size))
            batch, pieces = pieces[: min(batch_size, fitting)], pieces[min(batch_size, fitting) :]
            for piece, value in zip(batch, self._nll(batch), strict=True):
                nll[piece.text] += value
        return Scores(nll, np.array([max(0, len(ids) - 1) for ids in rows], dtype=np.int64))

    @torch.no_grad()
    def features(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> Float32[np.ndarray, "texts width"]:
        """The last hidden vector of each text, (N, d); for a text longer than the window, of its first window."""
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        read = [[self.context_id, *ids][: self.window] for ids in rows]
        order = sorted(range(len(read)), key=lambda place: -len(read[place]))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, mask = self._padded([read[place] for place in places])
            hidden = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            last = hidden[torch.arange(len(places)), mask.sum(dim=1) - 1]
            found |= dict(zip(places, last.float().cpu().numpy(), strict=True))
        return np.stack([found[place] for place in range(len(read))])

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask of rows; the first row must be the longest."""
        width, device = len(rows[0]), self.model.device
        # Padding comes after the real tokens, so it doesn't affect them.
        ids = [row + [self.context_id] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def describe(self) -> dict[str, Any]:
        """Everything besides the texts that affects a perplexity, JSON-able."""
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "vocabulary": self.vocab_size,
            "context": self.tokenizer.convert_ids_to_tokens(self.context_id) if self.protocol == "xlm" else None,
            "protocol": self.protocol,
            "window": self.window,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The judge's tokens of each text."""
        if self.protocol == "mdlm":
            texts = [cut_text(text, self.tokenizer) for text in texts]
        rows: list[list[int]] = []
        if texts:
            rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return rows

    def _read(self, ids: list[int], ended: bool | None) -> list[int]:
        """A text in the judge's tokens; all but the first are scored."""
        if self.protocol == "xlm":
            return [self.context_id, *ids]
        if ended is False or self.eos_id is None:
            return ids
        return [*ids, self.eos_id]

    def _pieces(self, text: int, read: list[int]) -> Iterator[_Piece]:
        goals = read[1:]
        start = scored = 0
        while scored < len(goals):
            end = min(start + self.window, len(goals))
            yield _Piece(text, read[start:end], [IGNORE] * (scored - start) + goals[scored:end])
            scored = end
            start = max(0, min(start + max(1, self.window // 2), len(goals) - self.window))

    def _nll(self, batch: Sequence[_Piece]) -> list[float]:
        """−log p of each piece's scored tokens."""
        width = len(batch[0].inputs)
        ids, mask = self._padded([piece.inputs for piece in batch])
        goals = [piece.targets + [IGNORE] * (width - len(piece.targets)) for piece in batch]
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        targets = torch.tensor(goals, device=ids.device)
        nll = F.cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
        sums: list[float] = nll.cpu().double().sum(dim=1).tolist()
        return sums


def load_scorer(
    path_or_id: str, device: str | torch.device = "cpu", window: int = WINDOW, protocol: Protocol = "xlm"
) -> Scorer:
    """Load the judge from a folder written by transformers, a `.gguf` file, or the hub, in float32.

    Args:
        path_or_id: a local file or folder has priority over the hub.
        window: the most tokens that it reads at once; fewer if it has fewer positions.
        protocol: the tokens that are scored, see `Scorer`.

    Raises:
        ConfigError: it doesn't exist, it cannot be loaded, it is not causal, its tokenizer belongs to another model, or
            the protocol is unknown or needs an EOS that the tokenizer lacks.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if window < 2:
        raise ConfigError(f"The judge's window is {window} tokens, and must be at least 2.")
    check_protocol(protocol, "judge_protocol")
    place, more = _place(path_or_id)
    try:
        with _quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **more)
            model: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype=torch.float32, trust_remote_code=False, **more
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(_why_not(path_or_id, place, error)) from error
    model = model.to(device).eval()
    context = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if context is None:
        raise ConfigError(f"The judge {path_or_id} needs a BOS or EOS token to put before a text, but has none.")
    eos = tokenizer.eos_token_id
    if protocol == "mdlm" and eos is None:
        raise ConfigError(
            f"The judge {path_or_id} has no EOS token, which the protocol mdlm needs to score the end of a text."
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    judge = Scorer(path_or_id, model, tokenizer, context, min(window, positions or window), protocol, eos)
    if not 2 <= len(tokenizer) <= judge.vocab_size:
        raise ConfigError(
            f"The judge {path_or_id} predicts {judge.vocab_size:,} tokens, but its tokenizer has {len(tokenizer):,}."
        )
    _check_causal(judge)
    return judge


def check_protocol(protocol: object, key: str) -> Protocol:
    """The protocol of this name; ConfigError for the option `key` if there is none."""
    for known in get_args(Protocol):
        if protocol == known:
            return known
    raise ConfigError(f"{key} is '{protocol}', and must be one of: {', '.join(PROTOCOLS)}.", key=key)


def _place(path_or_id: str) -> tuple[str, dict[str, Any]]:
    """The arguments for transformers: name and options."""
    path = Path(path_or_id)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"There is no file {path} to use as judge.")
        return str(path.parent), {"gguf_file": path.name}
    if not path.is_dir() and (path.is_absolute() or path_or_id.startswith((".", "~")) or path_or_id.count("/") > 1):
        raise ConfigError(f"There is no folder {path} to use as judge.")
    return path_or_id, {}


def _why_not(asked: str, place: str, error: Exception) -> str:
    folder = Path(place)
    reason = str(error).strip().splitlines()[0].rstrip(".:")
    if not folder.is_dir():
        return f"The judge '{asked}' is not a local folder, and could not be loaded from the hub: {reason}."
    if (folder / "checkpoints").is_dir() or (folder / "xlm_config.yaml").is_file():
        return (
            f"{asked} is a model of xlm, but a judge must be a model of transformers. Convert an ARLM with "
            f"xlm extract_checkpoint extract.checkpoint_path={asked} extract.format=transformers"
        )
    return f"{asked} cannot be loaded as a causal language model, which a judge must be: {reason}."


@torch.no_grad()
def _check_causal(judge: Scorer) -> None:
    """ConfigError for a network whose predictions see later tokens, as masked models do."""
    model, size = judge.model, judge.vocab_size
    ids = torch.tensor([[judge.context_id, *(place % size for place in range(1, 8))]], device=model.device)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    one, two = (model(input_ids=rows).logits[:, :-1] for rows in (ids, other))
    if bool((one - two).abs().max() > 1e-4 * one.abs().max()):
        raise ConfigError(
            f"The judge {judge.name} ({type(model).__name__}) looks at later tokens, so its numbers are not a "
            "perplexity. Use a causal language model."
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hides the progress bars and messages of transformers while weights are read."""
    from transformers.utils import logging

    level, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()


# The library's default seed for its clusters.
SEED = 25


def check_mauve() -> Any:
    """The library; ConfigError where it isn't installed."""
    try:
        import mauve as library
    except ImportError as error:
        raise ConfigError('MAUVE needs an additional library: pip install "xlm-core[mauve]"') from error
    return library


def mauve(texts: Sequence[str], reference: Sequence[str], judge: Scorer) -> Estimate:
    """MAUVE between 0 and 1 (Pillutla et al., arXiv 2102.01454); 1 if texts and reference cannot be distinguished.

    Features are the judge's last hidden vector of each text, including empty ones; a text longer than the window gives
    its first window. Compare only values with equal judges, equal numbers of texts and equal references.

    Raises:
        ConfigError: the library isn't installed, or there are fewer than two texts on a side.
    """
    library = check_mauve()
    if min(len(texts), len(reference)) < 2:
        raise ConfigError("MAUVE needs at least two texts and at least two texts of the reference.")
    found = library.compute_mauve(
        p_features=judge.features(reference), q_features=judge.features(texts), seed=SEED, verbose=False
    )
    value = float(found.mauve)
    return Estimate(None if np.isnan(value) else value, None, len(texts))
