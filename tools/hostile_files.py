"""Files made to do harm: how each is built, and which answer a user should get."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict
from safetensors.torch import save_file

from xlm.training.resume import AVERAGED

CANARY = "canary"
# What a payload would leave in the current folder.
TOUCH = {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [CANARY]}]}
SHELL = f"touch {CANARY}"


@dataclass(frozen=True)
class Base:
    """A harmless model: a run's folder with a checkpoint, and the same model exported."""

    run: Path
    export: Path


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Args:
        name: what it is, for the table.
        make: builds it below a folder, as a checkpoint or (`exported`) as an exported folder; returns its path.
        answer: a part of the message.
        doors: the only commands that it concerns; empty for all that take a model.
    """

    name: str
    make: Callable[[Base, Path, bool], Path]
    answer: str
    doors: tuple[str, ...] = ()


def config_of(base: Base) -> Any:
    """The stored configuration of the harmless model."""
    return OmegaConf.load(base.export / "xlm_config.yaml")


def stored(base: Base, to: Path, exported: bool, text: str) -> Path:
    """The model with another configuration."""
    if exported:
        shutil.copytree(base.export, to / "model")
        (to / "model/xlm_config.yaml").write_text(text, encoding="utf-8")
        return to / "model"
    content = torch.load(base.run / "checkpoints/best.ckpt", weights_only=True)
    content["xlm_config"] = text
    return saved(to, content)


def saved(to: Path, content: Any, name: str = "model.ckpt") -> Path:
    """A file of `torch.save` in a folder of checkpoints."""
    (to / "checkpoints").mkdir(parents=True)
    torch.save(content, to / "checkpoints" / name)
    return to / "checkpoints" / name


def setting(key: str, value: Any, more: dict[str, Any] | None = None) -> Callable[[Base, Path, bool], Path]:
    """A configuration with this value, which may be a mapping or an interpolation."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        config = config_of(base)
        with open_dict(config):
            for name, text in {**(more or {}), key: value}.items():
                OmegaConf.update(config, name, text, force_add=True)
        return stored(base, to, exported, OmegaConf.to_yaml(config, resolve=False))

    return make


def called(path: str, more: dict[str, Any] | None = None) -> Callable[[Base, Path, bool], Path]:
    """A configuration that calls a function with these arguments, in a section of the model."""
    return setting(EXTRA, {"_target_": path, **(more or {})})


def text_of(change: Callable[[str], str]) -> Callable[[Base, Path, bool], Path]:
    """A configuration with changed text."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        text = (base.export / "xlm_config.yaml").read_text(encoding="utf-8")
        return stored(base, to, exported, change(text))

    return make


def checkpoint(change: Callable[[dict[str, Any]], Any]) -> Callable[[Base, Path, bool], Path]:
    """A checkpoint with changed content."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        return saved(to, change(torch.load(base.run / "checkpoints/best.ckpt", weights_only=True)))

    return make


def raw(change: Callable[[bytes], bytes], name: str = "model.ckpt") -> Callable[[Base, Path, bool], Path]:
    """A checkpoint file with changed bytes."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        (to / "checkpoints").mkdir(parents=True)
        file = to / "checkpoints" / name
        file.write_bytes(change((base.run / "checkpoints/best.ckpt").read_bytes()))
        return file

    return make


def folder(change: Callable[[Path], object]) -> Callable[[Base, Path, bool], Path]:
    """An exported folder with changed files."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        shutil.copytree(base.export, to / "model")
        change(to / "model")
        return to / "model"

    return make


def run_files(files: dict[str, str]) -> Callable[[Base, Path, bool], Path]:
    """A run's folder with these files besides its own."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        shutil.copytree(base.run, to / "run", ignore=shutil.ignore_patterns("checkpoints"))
        for name, text in files.items():
            (to / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (to / "run" / name).write_text(text, encoding="utf-8")
        return to / "run"

    return make


def written(name: str, text: str) -> Callable[[Base, Path, bool], Path]:
    """A single file."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        to.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(text, encoding="utf-8")
        return to / name

    return make


def doubling(base: Base, to: Path, exported: bool) -> Path:
    """A configuration with values that refer to each other twice."""
    chain = {f"tags.a{n}": f"${{tags.a{n + 1}}}${{tags.a{n + 1}}}" for n in range(40)}
    return setting("tags.a40", "x", chain)(base, to, exported)


def sharded(index: Callable[[bytes], str]) -> Callable[[Base, Path, bool], Path]:
    """The folder of a sharded checkpoint, with a header that runs a command and this index."""

    def make(base: Base, to: Path, exported: bool) -> Path:
        folder = to / "checkpoints/last.ckpt"
        (folder / "step-1").mkdir(parents=True)
        torch.save({"checkpoint": Payload(), "places": {}, "tied": {}}, folder / "step-1/header.pt")
        content = (folder / "step-1/header.pt").read_bytes()
        (folder / "checkpoint.json").write_text(index(content))
        return folder

    return make


def listing(name: str) -> Callable[[bytes], str]:
    """The index of a sharded checkpoint in this folder."""
    return lambda header: json.dumps(
        {"format": 1, "folder": name, "files": {"header.pt": [len(header), zlib.crc32(header)]}}
    )


class Payload:
    """Runs a shell command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (SHELL,)


def _compressed(content: bytes) -> bytes:
    """The same archive with compressed parts, one of them many times larger than the file."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
        new.writestr("model/data/bomb", b"\0" * (64 * 2**20))
    return out.getvalue()


def _with_member(name: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        out = io.BytesIO(content)
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr(name, b"hello")
        return out.getvalue()

    return change


def _pickled_archive(to: bytes) -> bytes:
    """An archive of `torch.save` with another pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(to)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.infolist():
            is_pickle = part.filename.endswith("data.pkl")
            new.writestr(part.filename, b"\x80\x02" + b"(" * 100_000 if is_pickle else old.read(part))
    return out.getvalue()


def safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> Callable[[Path], object]:
    """Replace the weights by a file with this header; `length` is what the file says of it."""

    def change(model: Path) -> object:
        size = struct.pack("<Q", len(header) if length is None else length)
        return (model / "model.safetensors").write_bytes(size + header + data)

    return change


def index(weight_map: str, more: Callable[[Path], object] = lambda model: None) -> Callable[[Path], object]:
    """Replace the weights by an index of shards."""

    def change(model: Path) -> object:
        (model / "model.safetensors").rename(model / "part.safetensors")
        text = f'{{"metadata": {{}}, "weight_map": {weight_map}}}'
        (model / "model.safetensors.index.json").write_text(text)
        return more(model)

    return change


def link(name: str, target: str) -> Callable[[Path], object]:
    """Replace a file by a link."""

    def change(model: Path) -> object:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(target)
        return name

    return change


def outside(model: Path) -> object:
    """A shard that is a link to weights beside the folder."""
    save_file({"table.weight": torch.zeros(27, 27)}, model.parent / "secret.safetensors")
    (model / "a.safetensors").symlink_to("../secret.safetensors")
    return model


def remote_tokenizer(model: Path) -> object:
    """A tokenizer that names a class in a Python file beside it."""
    (model / "tokenizer").mkdir()
    (model / "tokenizer/evil.py").write_text(f"import pathlib\npathlib.Path({CANARY!r}).touch()\nclass Evil: ...\n")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    return (model / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))


def deep_tokenizer(model: Path) -> object:
    """A tokenizer whose JSON is nested too deeply."""
    (model / "tokenizer").mkdir()
    (model / "tokenizer/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return (model / "tokenizer/tokenizer.json").write_text("[" * 50_000)


def expanded(content: dict[str, Any]) -> dict[str, Any]:
    """A weight of one value, expanded to a huge shape."""
    content["state_dict"]["model.table.weight"] = torch.zeros(1).expand(10**6, 10**7)
    return content


def put(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Replace an entry of a checkpoint."""
    return lambda content: {**content, key: value}


def alias_bomb(text: str) -> str:
    """Twelve lines of YAML that mean 10¹² values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return text + "\n".join(lines) + "\n"


NOT_MADE = "which is not a class or function that is made for configurations"
TARGET = "predictor._target_"
EXTRA = "model.extra"
DATA = "datamodule.dataset_managers.val.prediction"
FOLDERS = ("folder", "hub")
CKPT = ("load", "eval", "generate", "trace", "extract")
REPORT = ("report", "runs")
MANY_DIGITS = "1" * 5000
DEEP = '{"a":' * 20_000
MARKUP = "</script><img src=x onerror=alert(1)>\x1b[2J"
JUDGE = {"_target_": "xlm.evaluation.answers.JudgedAnswers", "judge": "xlm.tasks.python_code.passes_tests"}
HUGE = b'{"table.weight":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'
METRICS = """step,name,value,time
1,"=cmd|/C calc",1,1
1,val/lm/</script><img src=x onerror=alert(1)>,1,1
"""
TERMINAL = "\x1b]0;owned\x07\x1b[2J"

TRACE, MODELS = ("trace_file",), ("models",)
_ROW = {
    "prompt": MARKUP,
    "given": [1, 2],
    "answer_start": 1,
    "steps": [],
    "ids": [1, 2],
    "calls": 0,
    "text": MARKUP,
    "truth": None,
    "drawing": None,
}
_RUN = {
    "name": MARKUP,
    "model": MARKUP,
    "checkpoint": MARKUP,
    "sampler": {},
    "tokens": {"1": MARKUP, "2": "b"},
    "special": {},
    "samples": [_ROW],
}
TRACE_PAGE = {"format": "xlm-trace/1", "title": MARKUP, "runs": [_RUN]}

CASES = (
    # Functions as targets.
    Case("`_target_: os.system`", setting(TARGET, "os.system"), f"would call 'os.system' ({TARGET}), {NOT_MADE}"),
    Case("a nested `_target_` that writes a file", setting(EXTRA, TOUCH), "would call 'pathlib.Path.touch'"),
    Case("`pathlib.Path.write_text`", called("pathlib.Path.write_text", {"_args_": [CANARY, "x"]}), NOT_MADE),
    Case("`sympy.sympify`", called("sympy.sympify", {"a": f"__import__('os').system('{SHELL}')"}), NOT_MADE),
    Case("`torch.hub.load`", called("torch.hub.load", {"repo_or_dir": "."}), NOT_MADE),
    Case("`torch.load`, `weights_only: false`", called("torch.load", {"f": "x", "weights_only": False}), NOT_MADE),
    Case("`pandas.read_pickle`", called("pandas.read_pickle", {"filepath_or_buffer": "x"}), NOT_MADE),
    Case("`joblib.load`", called("joblib.load", {"filename": "x"}), NOT_MADE),
    Case("`builtins.eval` with `_partial_`", called("builtins.eval", {"_partial_": True}), NOT_MADE),
    Case(
        "a target in a list in a metric",
        setting("reported_metrics.val.x", {"a": [{"_target_": "subprocess.Popen", "args": SHELL}]}),
        NOT_MADE,
    ),
    Case(
        "a target in an unused section",
        setting("notes", {"deep": {"_target_": "os.system", "command": SHELL}}),
        NOT_MADE,
    ),
    # Through the project's own modules.
    Case("`xlm.utils.run_record._git`", called("xlm.utils.run_record._git"), NOT_MADE),
    Case(
        "`xlm.utils.files.replace_text`", called("xlm.utils.files.replace_text", {"path": CANARY, "text": ""}), NOT_MADE
    ),
    Case("`xlm.trained.torch.load`", called("xlm.trained.torch.load", {"f": "x"}), NOT_MADE),
    Case("`xlm.utils.instantiate.instantiate`", called("xlm.utils.instantiate.instantiate"), NOT_MADE),
    Case("a model's import: `bigram….torch.hub.load`", called("bigram.components_bigram.torch.hub.load"), NOT_MADE),
    Case("`hydra.utils.get_method`", called("hydra.utils.get_method", {"path": "os.system"}), NOT_MADE),
    Case("a method of an allowed class", called("torch.nn.Module.load_state_dict"), NOT_MADE),
    # Dotted paths that jobs resolve.
    Case(
        "`on_the_fly_processor: os.system`", setting(f"{DATA}.on_the_fly_processor", "os.system"), "names 'os.system'"
    ),
    Case(
        "`print_batch_fn: subprocess.run`",
        setting("datamodule.print_batch_fn", "subprocess.run"),
        "names 'subprocess.run'",
    ),
    Case("`trace_view: os.system`", setting("trace_view", "os.system"), "names 'os.system' (trace_view)"),
    Case(
        "`dataset_constructor_str`",
        setting(f"{DATA}.dataset_constructor_str", "subprocess.Popen"),
        "names 'subprocess.Popen'",
    ),
    Case("`update_fn: builtins.exec`", setting("metric_inputs.exact_match", "builtins.exec"), "names 'builtins.exec'"),
    Case(
        "a module with side effects: `antigravity.geohash`",
        setting("trace_view", "antigravity.geohash"),
        "names 'antigravity.geohash'",
    ),
    Case(
        "a judge that runs generated programs", setting("post_hoc_evaluator", JUDGE), "which runs programs", ("eval",)
    ),
    # Interpolations.
    Case("`${oc.env:HF_TOKEN}`", setting("tags.a", "${oc.env:HF_TOKEN}"), "uses the resolver ${oc.env:HF_TOKEN}"),
    Case(
        "a computed resolver `${${a}:HF_TOKEN}`",
        setting("tags.b", "${${tags.a}:HF_TOKEN}", {"tags.a": "oc.env"}),
        "computes the name of a resolver",
    ),
    Case(
        "a target composed of two values",
        setting(TARGET, "${tags.a}.${tags.b}", {"tags.a": "os", "tags.b": "system"}),
        "would call 'os.system'",
    ),
    Case(
        "a function named by the tokenizer's files",
        setting("trace_view", "${tokenizer:name_or_path}"),
        "reads ${tokenizer:name_or_path}",
    ),
    Case(
        "a value chosen late: `${if_else:…}`",
        setting("trace_view", "${if_else:${tokenizer:vocab_size},os.system,x}"),
        "cannot be checked",
    ),
    Case("interpolations that double 40 times", doubling, "steps to be resolved"),
    Case("`${oc.create:…}`", setting("tags.a", "${oc.create:{_target_:os.system}}"), "uses the resolver"),
    Case("`${eval:9**9**9}`", setting("model.dropout", "${eval:9**9**9}"), "cannot be checked"),
    # Settings that make harmless classes dangerous.
    Case(
        "`trust_remote_code: true`",
        setting("global_components.tokenizer.trust_remote_code", True),
        "sets global_components.tokenizer.trust_remote_code=True",
    ),
    Case("`auto_map`", setting("model.auto_map", {"AutoModel": "evil.Evil"}), "sets model.auto_map"),
    Case(
        "`attn_implementation: owner/kernel`",
        setting("model.attn_implementation", "owner/kernel"),
        "which would load code",
    ),
    Case("`ssh://` as data", setting("data_files.val", "ssh://host/x.jsonl"), "reads from ssh://host/x.jsonl"),
    Case("a cache elsewhere", setting("datamodule.cache_dir", "/etc/xlm"), "writes to /etc/xlm (datamodule.cache_dir)"),
    Case(
        "a cache at `${paths.cache_dir}/../../x`",
        setting("datamodule.cache_dir", "${paths.cache_dir}/${tags.a}", {"tags.a": "../../../x"}),
        "(datamodule.cache_dir)",
    ),
    Case(
        "a data set named `../../x`",
        setting("datamodule.dataset_managers.val", {"../../x": {"_target_": "xlm.datamodule.DatasetManager"}}),
        "has a data set named '../../x'",
        ("eval",),
    ),
    Case(
        "`job_name: ../../x`",
        setting("job_name", "../../x"),
        "is not a folder below the folder of runs",
        ("eval", "generate", "extract"),
    ),
    Case(
        "`job_name: <img onerror=…>`",
        setting("job_name", "<img src=x onerror=alert(1)>"),
        "names are letters, digits",
        ("eval", "generate", "extract"),
    ),
    # YAML.
    Case("aliases that grow (billion laughs)", text_of(alias_bomb), "it has the YAML alias *a0"),
    Case(
        "nested 200 levels deep",
        text_of(lambda text: f"{text}x: {'[' * 200}{']' * 200}\n"),
        "nested more than 60 levels",
    ),
    Case(
        "a Python object in YAML",
        text_of(lambda text: f"{text}x: !!python/object/apply:os.system ['{SHELL}']\n"),
        "cannot be used",
    ),
    Case("5 MB of text", text_of(lambda text: f"{text}x: {'y' * 5_000_000}\n"), "and may have 4,194,304"),
    Case("not YAML", text_of(lambda text: "a: [\x00"), "cannot be used"),
    Case(
        "control sequences of terminals in a value",
        setting(TARGET, f"os.{TERMINAL}system"),
        r"would call 'os.\x1b]0;owned\x07\x1b[2Jsystem'",
    ),
    # Checkpoints.
    Case(
        "a pickle that runs a command",
        checkpoint(put("payload", Payload())),
        "it contains Python objects (posix.system)",
        CKPT,
    ),
    Case("a bare pickle", raw(lambda _: pickle.dumps(Payload())), "File is not a zip file", CKPT),
    Case("a deep pickle", raw(_pickled_archive), "cannot be read", CKPT),
    Case("cut off in the middle", raw(lambda content: content[: len(content) // 2]), "File is not a zip file", CKPT),
    Case("compressed parts (zip bomb)", raw(_compressed), "it has compressed or encrypted parts", CKPT),
    Case("two parts of one name", raw(_with_member("model/data.pkl")), "cannot be read", CKPT),
    Case("one changed byte", raw(lambda c: c[:2000] + bytes([c[2000] ^ 255]) + c[2001:]), "cannot be read", CKPT),
    Case(
        "text in place of a weight",
        checkpoint(put("state_dict", {"model.table.weight": "x"})),
        "it has a str where the weight",
        CKPT,
    ),
    Case(
        "a tensor of 10¹³ declared values",
        checkpoint(expanded),
        "it declares more values for 'model.table.weight' than it has",
        CKPT,
    ),
    Case(
        "a configuration that is a list",
        checkpoint(put("xlm_config", ["a"])),
        "it has a configuration that is not text",
        CKPT,
    ),
    Case(
        "a best file `checkpoints/../../x` to be deleted",
        checkpoint(put("callbacks", {"BestCheckpoint": {"best_model_path": "runs/t/checkpoints/../../x"}})),
        "which leaves its folder",
        CKPT,
    ),
    Case("a pickle in a sharded checkpoint", sharded(listing("step-1")), "cannot be read", CKPT),
    Case("a sharded checkpoint in `../x`", sharded(listing("../x")), "which is not a file in the folder", CKPT),
    Case("a sharded checkpoint with a deep index", sharded(lambda _: DEEP), "is not the index of a checkpoint", CKPT),
    Case(
        "averages that are a number",
        checkpoint(put(AVERAGED, 3)),
        "it has no averaged weights under",
        CKPT,
    ),
    # Exported folders.
    Case("a header of 2⁶⁰ bytes", folder(safetensors(b"{}", 2**60)), "cannot be read", FOLDERS),
    Case("a deep header", folder(safetensors(b'{"a":' * 20_000)), "cannot be read", FOLDERS),
    Case("a shape of 10¹⁸ values", folder(safetensors(HUGE, None, b"\0" * 4)), "cannot be read", FOLDERS),
    Case(
        "an index with `../secret`",
        folder(index('{"table.weight": "../secret.safetensors"}')),
        "which is not a file in the same folder",
        FOLDERS,
    ),
    Case(
        "an index with `/etc/passwd`",
        folder(index('{"table.weight": "/etc/passwd"}')),
        "which is not a file in the same folder",
        FOLDERS,
    ),
    Case("an index nested 20,000 levels deep", folder(index(DEEP)), "is not an index of shards", FOLDERS),
    Case("an index with a number of 5,000 digits", folder(index(MANY_DIGITS)), "is not an index of shards", FOLDERS),
    Case(
        "a shard that is a link to a file elsewhere",
        folder(index('{"table.weight": "a.safetensors"}', outside)),
        "it is a link to a file outside its folder",
        FOLDERS,
    ),
    Case(
        "a configuration that is a link to /etc/passwd",
        folder(link("xlm_config.yaml", "/etc/passwd")),
        "it is a link to a file outside its folder",
        FOLDERS,
    ),
    Case("a tokenizer with code of its own", folder(remote_tokenizer), "cannot be read", FOLDERS),
    Case("a tokenizer nested 50,000 levels deep", folder(deep_tokenizer), "cannot be read", FOLDERS),
    # Files of runs that `xlm report` and `xlm runs` read; damaged ones are named or left out.
    Case(
        "results.json with a number of 5,000 digits",
        run_files({"results.json": f'{{"step": {MANY_DIGITS}}}'}),
        "results.json is damaged",
        REPORT,
    ),
    Case(
        "record_train.json nested 20,000 levels deep",
        run_files({"record_train.json": DEEP}),
        "record_train.json is damaged",
        REPORT,
    ),
    Case(
        "config.yaml with growing aliases",
        run_files({"config.yaml": alias_bomb("model_name: x\n")}),
        "it has the YAML alias *a0",
        REPORT,
    ),
    Case("markup, scripts and formulas as names", run_files({"metrics.csv": METRICS}), "", REPORT),
    Case(
        "control sequences in the model's name",
        run_files({"config.yaml": 'model_name: "\\e[2Jowned\\u202e"\n'}),
        "",
        REPORT,
    ),
    Case(
        "a step of 400 digits in metrics.csv",
        run_files({"metrics.csv": f"step,name,value,time\n{'9' * 400},val/x,1,1\n"}),
        "",
        REPORT,
    ),
    # Files of traces, lists of models.
    Case(
        "a trace without runs",
        written("x.json", '{"format": "xlm-trace/1", "title": "x", "runs": 3}'),
        "runs is a number, and must be a list",
        TRACE,
    ),
    Case("a trace nested 20,000 levels deep", written("x.json", DEEP), "is not a trace", TRACE),
    Case("a trace with `</script>` and control sequences", written("x.json", json.dumps(TRACE_PAGE)), "", TRACE),
    Case(
        "xlm_models.json with the name `../x`",
        written("xlm_models.json", '{"../x": "x"}'),
        "'../x' cannot name a model",
        MODELS,
    ),
    Case(
        "xlm_models.json nested 20,000 levels deep",
        written("xlm_models.json", DEEP),
        "it cannot be read as JSON",
        MODELS,
    ),
    Case(
        "xlm_models.json with control sequences",
        written("xlm_models.json", json.dumps({"x\x1b[2J": "x"})),
        "cannot name a model",
        MODELS,
    ),
)
