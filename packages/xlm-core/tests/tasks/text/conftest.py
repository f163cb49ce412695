"""One trained tokenizer for all tests of text."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.tasks.text.tokenizer import KingJamesTokenizer, king_james_tokenizer


@pytest.fixture(scope="session")
def kjv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kjv")


@pytest.fixture(scope="session")
def kjv_tokenizer(kjv_cache: Path) -> KingJamesTokenizer:
    return king_james_tokenizer(cache_dir=kjv_cache)
