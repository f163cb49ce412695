"""`xlm generate`: what a checkpoint writes, from prompts given or from a dataset's, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from xlm.errors import ConfigError
from xlm.harness import Harness
from xlm.jobs.checkpoint_choice import chosen_checkpoint, load_chosen
from xlm.jobs.session import Session, shown, start
from xlm.utils.files import replace_text

# Where prompts are taken from when none are given, in this order.
SPLITS = ("predict", "test", "val")
STAGES = {"predict": "predict", "test": "test", "val": "validate"}


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Generate for `generation.prompts=[…]`, else for `generation.num_examples` (default 8) prompts of the data.

    Rows go to `generation.output_path` (default `<run>/generations.jsonl`) and to the screen.
    """
    chosen_checkpoint(cfg, "generation")
    session = start(cfg)
    harness = session.harness()
    checkpoint = load_chosen(cfg, harness, "generation")
    trainer = session.trainer([], [])
    harness.to(trainer.strategy.root_device).eval()
    harness.configure_components()
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        options = cfg.get("generation") or {}
        prompts = options.get("prompts")
        rows = from_prompts(harness, list(prompts)) if prompts else from_data(session, harness, options)
    session.write_record(trainer, "generate")
    path = Path(options.get("output_path") or session.run_dir / "generations.jsonl")
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for row in rows:
        text = "  ".join(f"[bold]{key}[/bold] {row[key]}" for key in ("prompt", "prediction", "truth") if key in row)
        session.console.print(text, highlight=False, soft_wrap=True)
    session.console.print(f"{len(rows)} rows from {shown(checkpoint)}, written to {shown(path)}.", soft_wrap=True)
    return rows


def from_prompts(harness: Harness, prompts: list[str]) -> list[dict[str, Any]]:
    """One row per prompt, through the predictor's `generate`."""
    if not hasattr(harness.predictor, "generate"):
        raise ConfigError(
            f"{type(harness.predictor).__name__} has no generate(list[str]), so generation.prompts cannot be used."
        )
    texts = harness.predictor.generate(prompts)
    return [{"prompt": prompt, "prediction": text} for prompt, text in zip(prompts, texts, strict=True)]


def from_data(session: Session, harness: Harness, options: Any) -> list[dict[str, Any]]:
    """Rows for the first prompts of the first prediction loader there is."""
    num_examples = int(options.get("num_examples", 8))
    datamodule = session.datamodule
    splits = [str(options["split"])] if options.get("split") else SPLITS
    for split in splits:
        for index, name in datamodule.dataloader_names.get(split, {}).items():
            if datamodule.role(split, name) != "prediction":
                continue
            rows: list[dict[str, Any]] = []
            datamodule.setup(STAGES[split])
            for batch_idx, batch in enumerate(getattr(datamodule, f"{split}_dataloader")()[index]):
                batch = harness.transfer_batch_to_device(batch, harness.device, index)
                predictions = harness.predictor.predict(batch, batch_idx, index, name)
                rows += harness.predictor.to_dict(batch, predictions)
                if len(rows) >= num_examples:
                    break
            return rows[:num_examples]
    raise ConfigError(
        f"The datamodule has no prediction loader in {', '.join(splits)}. Give generation.prompts=['…'] instead."
    )
