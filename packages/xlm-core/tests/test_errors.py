"""The error tree matches its drawing, has readable first lines, and survives pickling."""

from __future__ import annotations

import pickle
import re
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm import errors
from xlm.errors import XLMError

EXAMPLES = [
    errors.ConfigError("bad", key="a.b"),
    errors.MissingConfigError("Could not find 'model/x'", name="model/x", options=["y"]),
    errors.MissingRoleError("infill", model_type="arlm", datamodule="x", available=["lm"]),
    errors.BadTargetError("abc.xyz.MyClass", "ImportError: no", key="model", config_file=Path("m.yaml")),
    errors.NotAllowedError("a.yaml", "would call 'os.system' (model._target_)", "trust=true", key="model._target_"),
    errors.BadArgumentError("abc.MyClass", "unexpected", key="model", hint="It takes: x."),
    errors.UnknownJobError("trian", ["train", "eval"]),
    errors.ExternalModelError("bad", name="m"),
    errors.ExternalModelConflictError("m", [(Path("/a"), "one.json"), (Path("/b"), "two.json")]),
    errors.ModelsFileError(Path("xlm_models.json"), "it is broken"),
    errors.UnknownModelError("arml", ["arlm", "ilm"], ["xlm_models.json"]),
    errors.ModelNotInstalledError("my_model", "XLM_MODELS_PACKAGES"),
    errors.ScaffoldError("no such name", name="m"),
    errors.ModelLayoutError("m", Path("/a"), "no configs"),
    errors.DataError("bad"),
    errors.CacheCorruptError(Path("/c"), "a part is missing"),
    errors.CheckpointError("bad", path="c.ckpt"),
    errors.CheckpointMismatchError("c.ckpt", missing=["w"], unexpected=["v"], shapes={"u": ((1, 2), (3,))}),
    errors.CheckpointCorruptError("c.ckpt", "it ends early"),
    errors.StorageError("a.csv: No space left on device.", path="a.csv"),
    errors.OutOfMemoryError("Out of memory."),
    errors.RunInUseError("busy", folder="runs/a"),
    errors.RankLostError(1, " (process 4 on host a)", "has ended", "last.ckpt"),
    errors.SweepError({"lr=1": "the loss is not finite"}, 3),
    errors.NonFiniteLossError(7, float("nan")),
    errors.NotLearntError("The batch was not learnt."),
    errors.TrainingInterrupted(signal.SIGTERM, "last.ckpt"),
]


def all_errors(cls: type[XLMError] = XLMError) -> list[type[XLMError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in all_errors(child))]


def test_docstring_draws_exactly_the_tree() -> None:
    drawn = [
        (len(match.group(1)) // 4, match.group(2))
        for match in re.finditer(r"^((?:[│├└─ ]{4})*)([A-Z]\w+) {2,}", errors.__doc__ or "", re.MULTILINE)
    ]
    real = [(len(cls.__mro__) - len(XLMError.__mro__), cls.__name__) for cls in all_errors() if _is_ours(cls)]
    assert sorted(drawn) == sorted(real)


def _is_ours(cls: type) -> bool:
    return cls.__module__ == "xlm.errors"


def test_every_error_has_an_example() -> None:
    assert {type(error) for error in EXAMPLES} | {XLMError} == {cls for cls in all_errors() if _is_ours(cls)}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_pickles_with_message_and_culprits(error: XLMError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(vars(again)) == repr(vars(error))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_message_is_short_and_its_first_line_stands_alone(error: XLMError) -> None:
    lines = str(error).splitlines()
    assert lines[0].strip()
    assert len(lines) <= 12


def test_documented_first_lines() -> None:
    first = {type(error).__name__: str(error).splitlines()[0] for error in EXAMPLES}
    assert first["ExternalModelConflictError"] == "Duplicate model name: m"
    assert first["ModelNotInstalledError"] == (
        "No module named 'my_model', which XLM_MODELS_PACKAGES lists. Is it installed in this environment?"
    )
    assert first["UnknownJobError"] == "Unknown job_type 'trian'. Jobs: eval, train. Did you mean 'train'?"
    assert first["MissingRoleError"] == (
        "model_type 'arlm' has no collator for the role 'infill', which datamodule 'x' needs; it has: lm"
    )


def test_conflict_names_both_claimants_and_what_to_remove() -> None:
    text = str(errors.ExternalModelConflictError("m", [(Path("/a"), "one.json"), (Path("/b"), "two.json")]))
    for part in ("/a", "one.json", "/b", "two.json", "remove or rename"):
        assert part in text


def test_bad_target_says_key_file_reason_and_what_to_try() -> None:
    error = errors.BadTargetError("abc.xyz.MyClass", "ImportError: no", key="model", config_file=Path("m.yaml"))
    assert "key 'model', written in m.yaml" in str(error)
    assert "ImportError: no" in str(error)
    assert 'python -c "from abc.xyz import MyClass"' in str(error)


def test_mismatch_names_keys_and_shapes_and_stays_short() -> None:
    error = errors.CheckpointMismatchError(
        "c.ckpt", missing=[f"layer.{i}" for i in range(100)], shapes={"head": ((5, 4), (7, 4))}
    )
    text = str(error)
    assert "head: (5, 4) in the checkpoint, (7, 4) in the model" in text
    assert "(100)" in text
    assert "92 more" in text
    assert len(text.splitlines()) < 16


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_exits_with_128_plus_signal(signum: int, code: int) -> None:
    error = errors.TrainingInterrupted(signum, "last.ckpt")
    assert error.exit_code == code
    assert "last.ckpt" in str(error)
    assert errors.XLMError("x").exit_code == 1


def test_nearest_names() -> None:
    assert errors.nearest_names("trian", ["train", "eval"]) == ["train"]
    assert errors.nearest_names("zzz", ["train"]) == []
    assert errors.did_you_mean([]) == ""
    assert errors.did_you_mean(["a", "b"]) == "Did you mean 'a' or 'b'?"


@pytest.mark.parametrize(
    "error", [errors.CheckpointError("none", path="a"), errors.CheckpointCorruptError("a", "cut off")]
)
def test_what_is_wrong_with_a_named_checkpoint_begins_with_the_option(error: errors.CheckpointError) -> None:
    said = str(error)
    with pytest.raises(type(error)) as caught, errors.of_option("eval.checkpoint_path"):
        raise error
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))) == f"eval.checkpoint_path: {said}"


@given(st.text())
def test_a_line_is_one_printable_line(text: str) -> None:
    line = errors.as_line(text)
    assert line.isprintable()
    assert not text.isprintable() or line == text


def test_escapes_of_what_cannot_be_printed() -> None:
    assert errors.as_line("é\n\x1b[31m\udc80") == "é\\n\\x1b[31m\\udc80"
    assert str(errors.ModelNotInstalledError("a\nb", "X")).startswith("No module named 'a\\nb', which X lists.")


@pytest.mark.parametrize("text", ["a\nb\tc", "é 中文 \u200d\u00a0", "مرحبا", "👩\u200d🔬 ❤\ufe0f"])
def test_texts_of_people_stay_as_they_are(text: str) -> None:
    assert errors.printable(text) == text


@given(st.text())
def test_nothing_printable_moves_a_cursor(text: str) -> None:
    shown = errors.printable(text)
    assert not set(shown) & {*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(127, 160))}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029")
    assert errors.printable(shown) == shown


def test_errors_of_memory_are_known_by_their_kind() -> None:
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**55)
    for error, start in (
        (cuda, "CUDA out of memory"),
        (cpu.value, "Out of memory. Can't allocate"),
        (MemoryError(), "Out of memory.\n"),
    ):
        found = errors.OutOfMemoryError.of(error)
        assert str(found).startswith(start)
        assert len(str(found).splitlines()) == 2
    assert errors.OutOfMemoryError.of(RuntimeError("shapes differ")) is None
    assert errors.OutOfMemoryError.of(ValueError("not enough memory")) is None


def test_a_word_of_any_length_leaves_a_message_readable() -> None:
    """A damaged file may have such a name or value."""
    message = str(errors.DataError(f"data.jsonl, line 2: the role is 'assi{'9' * 5000}stant', not 'assistant'."))
    assert len(message) < 400
    assert message.endswith("99stant', not 'assistant'.")
