"""A command of the slot model."""

from __future__ import annotations

from pathlib import Path

import hydra

from slotlm.harness_slotlm import SlotHarness
from xlm.utils.rank_zero import RankedLogger

logger = RankedLogger(__name__, rank_zero_only=True)


def extract_weights(cfg) -> None:
    """Take the weights out of a checkpoint: `xlm job_type=slotlm_extract +ckpt=… +out=…`."""
    tokenizer = hydra.utils.instantiate(cfg.global_components.tokenizer)
    harness = SlotHarness.from_checkpoint(cfg.ckpt, cfg, tokenizer, None, apply_ema=False, map_location="cpu")
    out = Path(cfg.out)
    harness.save_model_weights(out, overwrite=True)
    print(f"SLOTLM EXTRACTED {sum(p.numel() for p in harness.model.parameters())} parameters to {out}")
