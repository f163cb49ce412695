"""The harness: an optimizer with a schedule of its own."""

from __future__ import annotations

import hydra
import torch

from xlm.harness import Harness


class FlexHarness(Harness):
    """Harness whose learning-rate schedule is no torch scheduler."""

    def instantiate_model(self, cfg):
        model = super().instantiate_model(cfg)
        model.made_by = "FlexHarness"
        return model

    def instantiate_loss_function(self, cfg):
        return hydra.utils.instantiate(cfg.loss)

    def top_level_named_modules(self):
        yield "model", self.model

    def configure_optimizers(self):
        node = self.config.get("flexlm_rsqrt") or self.config.lr_scheduler
        if "_target_" not in node:
            return super().configure_optimizers()
        cfg = self.config.optimizer
        optimizer = torch.optim.AdamW(self.model.get_param_groups(), lr=cfg.lr, betas=tuple(cfg.betas), eps=cfg.eps)
        scheduler = hydra.utils.instantiate(node, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()

    def on_validation_start(self):
        super().on_validation_start()
        print(f"FLEXLM VALIDATION at step {self.global_step}")
