"""The harness of the slot model: an extra log entry, and its own optimizer."""

from __future__ import annotations

from typing import Any

import hydra
import torch

from xlm.harness import Harness, LRSchedulerWithConfig
from xlm.utils.rank_zero import RankedLogger, rank_zero_only, rank_zero_warn, warn_once

logger = RankedLogger(__name__, rank_zero_only=True)


class SlotHarness(Harness):
    """Harness with a record of what ran."""

    def __init__(self, cfg, tokenizer=None, datamodule=None, **kwargs: Any):
        self.events: list[str] = []
        super().__init__(cfg, tokenizer=tokenizer, datamodule=datamodule, **kwargs)

    def instantiate_model(self):
        self.model = hydra.utils.instantiate(self.config.model)

    def instantiate_loss_function(self):
        self.loss_function = hydra.utils.instantiate(self.config.loss)

    def top_level_named_modules(self):
        return [("encoder", self.model.encoder), ("output_layer", self.model.output_layer)]

    def configure_optimizers(self) -> dict[str, Any]:
        cfg = self.config
        decay = [p for _, p in self.model.get_named_params_for_weight_decay()]
        no_decay = [p for _, p in self.model.get_named_params_for_no_weight_decay()]
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": cfg.optimizer.weight_decay},
                {"params": no_decay, "weight_decay": 0.0},
            ],
            lr=cfg.optimizer.lr,
            betas=tuple(cfg.optimizer.betas),
            eps=cfg.optimizer.eps,
        )
        lr_scheduler: LRSchedulerWithConfig = self.create_lr_scheduler(optimizer, **cfg.lr_scheduler)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}

    def _step(self, batch, batch_idx, dataloader_idx=None, stage="train"):
        loss_dict = super()._step(batch, batch_idx, dataloader_idx, stage)
        self.log(
            f"{stage}/slot_length_loss",
            loss_dict["length_loss"],
            on_step=stage == "train",
            on_epoch=stage != "train",
            prog_bar=False,
            add_dataloader_idx=False,
            batch_size=len(batch["input_ids"]),
        )
        return loss_dict

    def on_validation_start(self) -> None:
        self.events.append("validation")
        self._say(f"SLOTLM VALIDATION {self.dataloader_names['val']}")

    def on_test_start(self) -> None:
        self.events.append("test")
        warn_once("slotlm: testing")
        self._say(f"SLOTLM TEST on {self.device}")

    @rank_zero_only
    def _say(self, text: str) -> None:
        if self.noise_schedule is None:
            rank_zero_warn("slotlm has no noise schedule")
        logger.info(text)
        print(text)
