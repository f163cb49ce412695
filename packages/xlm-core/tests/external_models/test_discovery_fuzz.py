"""Any content of xlm_models.json and the variables gives models or an XLMError, never another exception."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlm.errors import XLMError
from xlm.external_models import discover

names = st.text(max_size=12) | st.sampled_from(["toy", "lost", "arlm", ".", "..", "/", "~", "a" * 300])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
contents = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(names, values | names, max_size=4).map(lambda made: json.dumps(made).encode())
    | values.map(lambda made: json.dumps(made).encode())
)
variables = st.text(max_size=30) | st.lists(names, max_size=4).map(":".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(here=contents, below=contents, path=variables, packages=variables)
def test_any_content_gives_models_or_one_of_our_errors(here: bytes, below: bytes, path: str, packages: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        (cwd / "toy" / "configs").mkdir(parents=True)
        (cwd / "toy" / "__init__.py").touch()
        (cwd / "xlm-models").mkdir()
        (cwd / "xlm_models.json").write_bytes(here)
        (cwd / "xlm-models" / "xlm_models.json").write_bytes(below)
        environ = {"XLM_MODELS_PATH": path, "XLM_MODELS_PACKAGES": packages}
        found = discover(environ, cwd)
        assert not set(found.models) & set(found.unusable)
        assert all(isinstance(error, XLMError) and str(error) for error in found.errors)
        if found.errors:
            with pytest.raises(XLMError):
                found.raise_errors()
