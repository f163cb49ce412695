"""Limits for YAML that somebody else may have written: its length, its depth, and no aliases."""

from __future__ import annotations

import re

import yaml

MAX_LENGTH = 4 * 2**20
MAX_DEPTH = 60
MAX_VALUES = 100_000
MAX_TEXT = 2**16
# A text that is short, has nothing like an alias, few brackets and no deep lines needs no closer look.
_SHORT = 2**17
_MAYBE_ALIAS = re.compile(r"(?:^|[\s\[{,])\*[^\s*]", re.MULTILINE)
_DEEP_LINE = re.compile(rf"^(?: {{{MAX_DEPTH}}}|\t|[ ]*(?:[-?:] ){{8}})", re.MULTILINE)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_stored_yaml(text: str) -> None:
    """Check the YAML of a stored configuration before it is loaded.

    Aliases can make a few lines grow to any size, and deep nesting ends a process; `OmegaConf.to_yaml` writes neither.

    Raises:
        ValueError: it is too long or too deep, has an alias, or is not YAML.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"it has {len(text):,} characters, and may have {MAX_LENGTH:,}")
    brackets = sum(text.count(opening) - text.count(empty) for opening, empty in (("[", "[]"), ("{", "{}")))
    few = brackets - text.count("${") < MAX_DEPTH // 2
    if len(text) < _SHORT and few and not _MAYBE_ALIAS.search(text) and not _DEEP_LINE.search(text):
        return
    depth = num_values = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has the YAML alias *{event.anchor}, which stored configurations don't have")
            if isinstance(event, yaml.ScalarEvent):
                num_values += 1
                if num_values > MAX_VALUES or len(event.value) > MAX_TEXT:
                    raise ValueError(f"it has more than {MAX_VALUES:,} values, or one of over {MAX_TEXT:,} characters")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    except yaml.YAMLError as error:
        raise ValueError("it cannot be read as YAML") from error
