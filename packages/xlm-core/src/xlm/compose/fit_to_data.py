"""Chooses the settings of a run on a person's own data from these data and the device: sizes, lengths, steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose.messages import config_folders, group_members, paths
from xlm.compose.own_data import AUTOMATIC
from xlm.errors import ConfigError
from xlm.utils.stored_yaml import check_stored_yaml

# The share of texts that must fit into a block, and the longest block by kind of device.
_FITTING = 0.99
_LONGEST = {"cpu": 128, "gpu": 1024}
_LONGEST_PAIR = {"cpu": 256, "gpu": 1024}
# Special tokens of a block; blocks are a multiple of a number that GPUs like.
_NUM_SPECIAL, _MULTIPLE = 2, 8
_LEAST_PROMPT = 32
_COLUMNS = {"block_size": "input_ids", "input_block_size": "prompt_ids"}
_SPECIAL = {"block_size": _NUM_SPECIAL, "input_block_size": 0}
# Small data are read so often; more data as often as these positions and steps allow.
_EPOCHS = 60
_FEWEST_STEPS = 500
_MOST_STEPS = {"cpu": 2_000, "gpu": 20_000}
_MOST_POSITIONS = {"cpu": 6e6, "gpu": 2e9}
_LARGEST_BATCH = 64
_VALIDATIONS = 10
# Rows that are answered in each validation, and in the test.
_ANSWERED = {"val": 64, "test": {"cpu": 500, "gpu": 5_000}}
# Answers of so many tokens are right or wrong as a whole; of longer ones hardly any is right in every token.
_SHORT_ANSWER = 16
_MONITORED = ("monitored_metric", "monitored_mode")
# Below so many bytes a small network has seen everything a larger one could.
_BYTES_FOR_MEDIUM, _BYTES_FOR_SMALL = 2**20, 10**8
_MEDIUM = {"d_model": 384, "num_layers": 6, "nhead": 6}
_SIZES = {"cpu": ("tiny_{}", "{}", "xtiny_{}"), "gpu": ("tiny_{}", "{}", "xtiny_{}"), "large": ("small_{}", "{}")}
_OF_NETWORK = "model"
_DEBUG = "debug"
_GROUPS = (_OF_NETWORK, "optimizer", "lr_scheduler")
# Learning rates for AdamW, and those of other optimizers as a share of them; the rest have their own.
_RATE = "optimizer.lr"
_RATES = {"small": 3e-4, "medium": 5e-4, "tiny": 1e-3}
_SHARE_OF_RATE = {"adamw": 1.0, "adam": 1.0, "lion": 0.3}


def fitted_to_data(
    cfg: DictConfig, overrides: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]
) -> DictConfig:
    """The configuration with everything that `data.text=` leaves open; any other configuration as it is.

    A run that exists keeps what was chosen when it started. What the overrides set is never changed; with
    `experiment=`, training and network are those of the experiment.

    Args:
        overrides: those that `cfg` was composed from.
        compose: composes a configuration from overrides.

    Raises:
        DataError: the data cannot be read, are too few or lack a column.
        ConfigError: no network belongs to the model type.
    """
    if not OmegaConf.select(cfg, AUTOMATIC) or cfg.data.get("chosen"):
        return cfg
    given = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    # What a debugging preset is for is not chosen; everything else is as in the run that is looked into.
    given = {**keys_of_preset(given.get(_DEBUG, "")), **given}
    chosen = _of_run(cfg) or _chosen(cfg, given)
    applied = {key: value for key, value in chosen.items() if not _is_given(key, given)}
    # In a sweep, Hydra writes ~model=null.
    rest = [text for text in overrides if text.partition("=")[0] != f"~{_OF_NETWORK}"]
    network = [f"{_OF_NETWORK}={applied[_OF_NETWORK]}"] if _OF_NETWORK in applied else []
    groups = [f"{key}={applied[key]}" for key in _GROUPS[1:] if key in applied]
    fitted = compose([*(rest if network else overrides), *network, *groups])
    with open_dict(fitted):
        fitted.job_name = cfg.job_name
        for key, value in applied.items():
            if key not in _GROUPS:
                OmegaConf.update(fitted, key, value, force_add=True)
        # Also what an override replaced: without that override, the run continues as it was chosen.
        fitted.data.chosen = chosen
        fitted.data.overridden = [key for key in chosen if key not in applied]
    return fitted


def _is_given(key: str, given: Mapping[str, str]) -> bool:
    """Whether an override sets the key, or a part of it that contains it; the data are renamed, not chosen."""
    if key.startswith("data_files."):
        return False
    if key == _RATE and given.get("optimizer") in _SHARE_OF_RATE:
        return key in given  # this rate is chosen for an optimizer that is given
    parts = key.split(".")
    is_group = key == "lr_scheduler"  # the options of one schedule don't fit another
    return any(".".join(parts[:n]) in given for n in range(1, len(parts) + 1)) or (
        is_group and any(name.startswith(f"{key}.") for name in given)
    )


def keys_of_preset(name: str) -> dict[str, str]:
    """Dotted key → value of everything that the preset `debug=name` sets; empty for none."""
    files = [folder / _DEBUG / f"{name}.yaml" for folder in config_folders()]
    return {
        ".".join(path): str(value)
        for file in files
        if file.is_file()
        for path, value in paths(OmegaConf.to_container(OmegaConf.load(file)))
        if path[0] != "defaults" and not isinstance(value, dict)
    }


def _of_run(cfg: DictConfig) -> dict[str, Any] | None:
    """What was chosen when the run of this name started; None for a new run, and for debugging, which starts anew."""
    path = Path(cfg.paths.run_dir) / "config.yaml"
    if OmegaConf.select(cfg, "global_flags.DEBUG") or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    check_stored_yaml(text)
    found = OmegaConf.select(OmegaConf.create(text), "data.chosen")
    return dict(OmegaConf.to_container(found)) if isinstance(found, DictConfig) else None  # type: ignore[arg-type]


def _chosen(cfg: DictConfig, given: Mapping[str, str]) -> dict[str, Any]:
    """Dotted key → value of every choice; `model`, `optimizer` and `lr_scheduler` are members of their groups."""
    from xlm.data.own_facts import files_of_splits, measure, shares
    from xlm.data.selection import Reading

    chosen: dict[str, Any] = {"reading.skip_empty": True}
    files = {part: OmegaConf.select(cfg, f"data_files.{part}") for part in ("train", "val", "test")}
    named = files_of_splits(files["train"])
    files |= {part: name for part, name in named.items() if part == "train" or not files[part]}
    chosen |= {f"data_files.{part}": files[part] for part in named}
    columns = [str(column) for column in cfg.tokenizer_columns]
    reading = Reading.of({**_plain(cfg, "reading"), "skip_empty": True})
    facts = measure(_container(files["train"]), columns, reading)
    own = {key: value for key, value in _plain(cfg, "held_out").items() if f"held_out.{key}" in given}
    held_out = shares(facts, [part for part in ("val", "test") if not files[part] and part not in own]) | own
    chosen |= {f"held_out.{part}": share for part, share in held_out.items()}
    chosen["vocab_size"] = vocabulary_size(facts.num_bytes)
    found = _lengths(cfg, {key: value for key, value in chosen.items() if not _is_given(key, given)}, facts)
    device = _device(cfg)
    is_pair = "prompt_ids" in found
    blocks = _blocks(found, device)
    chosen |= blocks
    limits = {key: int(given[key]) if given.get(key, "").isdigit() else size for key, size in blocks.items()}
    if any(found[_COLUMNS[key]][-1] > limit - _SPECIAL[key] for key, limit in limits.items()):
        chosen["too_long"] = "drop" if is_pair else "split"
    if "experiment" in given:
        return chosen
    chosen |= _training(cfg, given, facts, held_out, sum(limits.values()), device)
    if is_pair:
        chosen |= monitored_for(cfg, given, found["input_ids"])
    if is_pair and "datamodule.dataset_managers.val.prediction" not in given:
        chosen["datamodule.dataset_managers.val.prediction.num_examples"] = _ANSWERED["val"]
        chosen["datamodule.dataset_managers.test.prediction.num_examples"] = _ANSWERED["test"][device]  # type: ignore[index]
    if not is_pair:
        chosen |= _plain(cfg, "for_texts")  # what the model type sets for plain texts
    network = given.get(_OF_NETWORK)
    if network is not None or device != "cpu":
        chosen.pop("batching", None)  # another network may compute padded batches only; not measured on GPUs
    if network is None:
        chosen |= network_for(str(cfg.get("model_name")), facts.num_bytes, device)
        network = chosen.pop(_OF_NETWORK)
        chosen = {_OF_NETWORK: network, **chosen}
    return chosen | optimizer_for(network, f"{_OF_NETWORK}.d_model" in chosen, given.get("optimizer"))


def vocabulary_size(num_bytes: int) -> int:
    """Entries of a tokenizer for an amount of text: 512 for 30 kB, 2,048 for 4 MB, 32,768 for 30 GB."""
    return int(2 ** min(15, max(9, round(9 + 0.3 * math.log2(max(num_bytes, 1) / 2**15)))))


def _lengths(cfg: DictConfig, chosen: Mapping[str, Any], facts: Any) -> dict[str, list[int]]:
    """Sorted lengths in tokens, by column, with the tokenizer of the run, which is trained here if it is new."""
    from xlm.data.own_facts import lengths
    from xlm.utils.imports import get_function
    from xlm.utils.instantiate import instantiate

    trial = cfg.copy()
    with open_dict(trial):
        for key, value in chosen.items():
            OmegaConf.update(trial, key, value, force_add=True)
    if trial.tokenizer is None and (folder := _tokenizer_of_source(cfg)) is not None:
        trial.tokenizer = str(folder)
    tokenizer = instantiate(trial.global_components.tokenizer)
    manager = trial.datamodule.dataset_managers.train.lm
    function = get_function(str(manager.preprocess_function))
    options = _container(manager.get("preprocess_function_kwargs") or {})
    return lengths(facts, lambda row: function(dict(row), tokenizer=tokenizer, **options))


def _tokenizer_of_source(cfg: DictConfig) -> Path | None:
    """The tokenizer that a run takes from the model at `init_from`, if that has the files."""
    if not cfg.get("init_from") or cfg.get("init_tokenizer") == "own":
        return None
    path = Path(str(cfg.init_from))
    found = (folder / "tokenizer" for folder in (path, path.parent, path.parent.parent))
    return next((folder for folder in found if folder.is_dir()), None)


def _blocks(found: Mapping[str, list[int]], device: str) -> dict[str, int]:
    """`block_size` and, for prompts, `input_block_size`: texts nearly all fit, prompts and answers all if possible."""
    if "prompt_ids" not in found:
        return {"block_size": _block(_quantile(found["input_ids"], _FITTING) + _NUM_SPECIAL, _LONGEST[device])}
    longest = _LONGEST_PAIR[device]
    return {
        "block_size": _block(found["input_ids"][-1] + _NUM_SPECIAL, longest),
        # Prompts are padded to the longest of a batch only, so room for longer ones costs nothing.
        "input_block_size": _block(max(_LEAST_PROMPT, 2 * found["prompt_ids"][-1]), longest),
    }


def _quantile(lengths: Sequence[int], share: float) -> int:
    return lengths[min(len(lengths) - 1, math.ceil(share * len(lengths)) - 1)]


def _block(length: int, longest: int) -> int:
    return min(longest, max(_MULTIPLE, -(-length // _MULTIPLE) * _MULTIPLE))


def _device(cfg: DictConfig) -> str:
    """`gpu` or `cpu`, as the trainer would choose."""
    accelerator = str(cfg.trainer.get("accelerator"))
    if accelerator in ("cpu", "gpu", "cuda"):
        return "cpu" if accelerator == "cpu" else "gpu"
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def _training(
    cfg: DictConfig, given: Mapping[str, str], facts: Any, held_out: Mapping[str, float], block: int, device: str
) -> dict[str, Any]:
    """Batch, steps, validations, schedule and average; the number of steps may be given."""
    num_rows = max(1, round(facts.num_rows * (1 - sum(held_out.values()))))
    batch = min(_LARGEST_BATCH, 2 ** max(2, int(math.log2(max(num_rows / 8, 2)))), num_rows)
    possible = min(_MOST_STEPS[device], int(_MOST_POSITIONS[device] / (batch * block)))
    steps = max(_FEWEST_STEPS, min(possible, _EPOCHS * num_rows // batch))
    steps = round(steps, -2)
    if (asked := given.get("trainer.max_steps", "")).isdigit() and int(asked) > 0:
        steps = int(asked)
    chosen: dict[str, Any] = {
        "per_device_batch_size": batch,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": max(1, steps // _VALIDATIONS),
        "lr_scheduler": "cosine",
    }
    if cfg.get("ema_decay"):
        # An average over more than a tenth of a short run would hold too much of its start.
        chosen["ema_decay"] = min(float(cfg.ema_decay), round(1 - 10 / max(steps, 20), 4))
    return chosen


def monitored_for(cfg: DictConfig, given: Mapping[str, str], answers: Sequence[int]) -> dict[str, Any]:
    """Exact match chooses the best checkpoint of a run on short answers, if its validation has that metric.

    The loss may be lowest long before the answers are right: it also counts what the family draws at random, such as
    the order of insertions.

    Args:
        answers: sorted lengths in tokens.
    """
    metric = OmegaConf.select(cfg, "reported_metrics.val.prediction.exact_match")
    loader = OmegaConf.select(cfg, "datamodule.dataset_managers.val.prediction")
    if any(key in given for key in _MONITORED) or answers[len(answers) // 2] > _SHORT_ANSWER:
        return {}
    if not (loader and cfg.get("predictor") and metric and metric.get("update_fn")):
        return {}
    return dict(zip(_MONITORED, (f"val/prediction/{metric.name}", "max"), strict=True))


def network_for(model_type: str, num_bytes: int, device: str) -> dict[str, Any]:
    """The network of a model type that fits the data and the device, as choices.

    Raises:
        ConfigError: no network is named after the model type.
    """
    known = group_members("model")
    is_large = device == "gpu" and num_bytes >= _BYTES_FOR_SMALL
    patterns = (*(_SIZES["large"] if is_large else ()), *_SIZES[device])
    name = next((each for pattern in patterns if (each := pattern.format(model_type)) in known), None)
    if name is None:
        raise ConfigError(
            f"No network is named after model_type={model_type} (tiny_{model_type}, {model_type}). "
            f"Choose one with model=…: {', '.join(known)}.",
            key="model",
        )
    chosen: dict[str, Any] = {_OF_NETWORK: name}
    if device == "gpu" and num_bytes >= _BYTES_FOR_MEDIUM and name == f"tiny_{model_type}":
        chosen |= {f"{_OF_NETWORK}.{key}": value for key, value in _MEDIUM.items()}
    return chosen


def optimizer_for(network: str, is_medium: bool, asked: str | None) -> dict[str, Any]:
    """Muon, with its own learning rate, for the small networks that it was tried with; AdamW for others.

    Args:
        asked: the optimizer that is given; it gets a rate for the network.
    """
    is_tiny = network.startswith(("tiny_", "xtiny_")) and not is_medium
    if is_tiny and asked is None:
        return {"optimizer": "muon"}
    size = "small" if network.startswith("small_") else "medium" if is_medium else "tiny"
    name = asked or "adamw"
    rate = {_RATE: float(f"{_RATES[size] * _SHARE_OF_RATE[name]:.2g}")} if name in _SHARE_OF_RATE else {}
    return {"optimizer": name, **rate}


def _plain(cfg: DictConfig, key: str) -> dict[str, Any]:
    found = _container(cfg.get(key) or {})
    assert isinstance(found, dict)
    return found


def _container(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
