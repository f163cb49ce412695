"""Shows a composed configuration as a tree, and a batch as shapes and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.syntax import Syntax
from rich.tree import Tree
from torch import Tensor

from xlm.errors import printable
from xlm.protocols import Tokenizer
from xlm.utils.consoles import plain_console
from xlm.utils.rank_zero import rank_zero_only


def _as_yaml(cfg: DictConfig, key: str, resolve: bool) -> str:
    try:
        # Only the root key, but in its context: interpolations may refer to any key.
        node = cfg[key] if resolve else cfg._get_node(key)
        if isinstance(node, DictConfig | ListConfig):
            return OmegaConf.to_yaml(node, resolve=resolve).rstrip()
        return str(node)
    except OmegaConfBaseException:
        # Some values exist only later (for instance the tokenizer's); show the expression.
        if not resolve:
            raise
        return _as_yaml(cfg, key, resolve=False)


def config_tree(cfg: DictConfig, resolve: bool = True) -> Tree:
    """A branch per key of the root, with its YAML; values that cannot be resolved yet stay expressions."""
    tree = Tree("CONFIG")
    for key in cfg:
        tree.add(str(key)).add(Syntax(_as_yaml(cfg, str(key), resolve), "yaml", background_color="default"))
    return tree


@rank_zero_only
def print_config_tree(cfg: DictConfig, resolve: bool = True, save_to_file: bool | str | Path = False) -> None:
    """Print the configuration as a tree; `save_to_file` is an additional output path (True: config_tree.log)."""
    tree = config_tree(cfg, resolve)
    plain_console().print(tree)
    if save_to_file:
        path = Path("config_tree.log" if save_to_file is True else save_to_file)
        with path.open("w", encoding="utf-8") as file:
            plain_console(file=file, width=120).print(tree)


def print_batch(batch: Mapping[str, Any], split: str, tokenizer: Tokenizer, dataloader_name: str) -> None:
    """Print every field's shape, or its value if it is not a tensor; then the first row's input and target as tokens.

    Targets that are not predicted (negative ids) are left out. For `datamodule.print_batch_fn`.
    """
    fields = (f"{name} {tuple(v.shape) if isinstance(v, Tensor) else v}" for name, v in batch.items())
    print(printable(f"{split}/{dataloader_name}: " + ", ".join(fields)))
    print("  input  ", printable(tokenizer.decode(batch["input_ids"][0].tolist())))
    if "target_ids" in batch:
        target = [token for token in batch["target_ids"][0].tolist() if token >= 0]
        print("  target ", printable(tokenizer.decode(target)))
