"""Every command block of the documentation runs as it stands."""

from pathlib import Path

import pytest

from run_docs import ROOT, pages, run_page


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for outcome in run_page(page, tmp_path):
        print(f"{outcome.block.where} {outcome.status} {outcome.seconds:.1f} s")
        assert outcome.status != "failed", f"{outcome.block.where}\n{outcome.block.code}\n\n{outcome.output}"
