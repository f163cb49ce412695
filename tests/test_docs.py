"""Every command block of the documentation runs as it stands."""

from pathlib import Path
from typing import Any

import pytest

from run_docs import ROOT, pages, run_page

# What a new user meets first is tried with every change, the other pages every night.
FIRST = ("README.md", "docs/quickstart.md", "docs/guide/external-models.md")


def params() -> list[Any]:
    named = {page.relative_to(ROOT).as_posix(): page for page in pages()}
    assert set(FIRST) <= set(named)
    return [
        pytest.param(page, id=name, marks=() if name in FIRST else pytest.mark.slow) for name, page in named.items()
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", params())
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for outcome in run_page(page, tmp_path):
        print(f"{outcome.block.where} {outcome.status} {outcome.seconds:.1f} s")
        assert outcome.status != "failed", f"{outcome.block.where}\n{outcome.block.code}\n\n{outcome.output}"
