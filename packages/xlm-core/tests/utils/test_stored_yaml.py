"""YAML of others is limited before it is loaded; what is stored here passes."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from xlm.utils.stored_yaml import check_stored_yaml


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: *x\n", "alias \\*x"),
        ("a: [*b]", "alias \\*b"),
        ("base: &b {c: 1}\nd:\n  <<: *b\n", "alias \\*b"),
        (f"x: {'[' * 200}{']' * 200}", "nested more than 60"),
        ("\n".join(" " * depth + "a:" for depth in range(100)), "nested more than 60"),
        ("- " * 100 + "a", "nested more than 60"),
        (f"x: {'y' * 200_000}", "over 65,536 characters"),
        (f"x: [{'1, ' * 120_000}1]", "more than 100,000 values"),
        ("x: y\n" * 1_000_000, "may have 4,194,304"),
        (f"a: {'{}, ' * 40}[{'[' * 40}", "cannot be read as YAML"),
    ],
)
def test_what_grows_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_stored_yaml(text)


def test_what_is_stored_passes() -> None:
    config = {"a": "${eval:${.b} * 4}", "b": 3, "c": [], "d": {}, "e": "*", "f": ["x"] * 2000, "g": "2*3"}
    for depth in range(20):
        config = {f"level{depth}": config}
    check_stored_yaml(OmegaConf.to_yaml(OmegaConf.create(config)))
