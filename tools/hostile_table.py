"""Sends files made to do harm through every command that reads such files, and prints a table of what happened."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hostile_files import CANARY, CASES, Base, Case

MODELS = Path(__file__).resolve().parents[1] / "packages/xlm-core/tests/models"
# Two steps of the bigram model on a few graphs.
RUN = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu", "loggers=debug",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "datamodule.dataset_managers.val.prediction.num_examples=5", "per_device_batch_size=16", "trainer.max_steps=2",
    "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "test_after_training=false", "ema_decay=0.5",
)  # fmt: skip
# Commands that take a model; {} is its path.
OF_MODELS = {
    "load": (),
    "eval": ("eval", "{}", "eval.split=val"),
    "generate": ("generate", "{}", "generation.prompts=['3 1']"),
    "trace": ("trace", "{}", "prompts=['3 1']", "out=x.html"),
    "extract": ("extract_checkpoint", "{}"),
    "folder": (),
    "hub": (),
}
OTHERS = {
    "report": ("report", "{}", "output=x.html"),
    "runs": ("runs", "{}"),
    "trace_file": ("trace", "{}", "out=x.html"),
    "models": ("models",),
}
DOORS = {**OF_MODELS, **OTHERS}
# What a command may leave: the pages that it was told to write.
_WANTED = {"x.html", "x.md", "x.csv", "x_pairs.csv", "x.json", "texts.txt"}


@dataclass(frozen=True)
class Outcome:
    """What a command answered (`code` 0 for none), whether a payload ran, new files, the text of its pages and CSV."""

    code: int
    answer: str
    printed: str
    executed: bool
    left: tuple[str, ...]
    pages: str = ""
    table: str = ""


def make_base(folder: Path) -> Base:
    """Train the bigram model for two steps, and export it."""
    import xlm
    from xlm.commands import train
    from xlm.compose import load_config
    from xlm.utils.instantiate import clear_components

    with _surroundings(folder), contextlib.redirect_stdout(io.StringIO()):
        train.run(load_config(RUN))
        clear_components()
        xlm.load("runs/t").save_pretrained("export")
    return Base(folder / "runs/t", folder / "export")


def doors_of(case: Case) -> list[str]:
    """All commands that a case concerns; the hub's stand-in is a folder too."""
    return [*(case.doors or (name for name in OF_MODELS if name != "folder"))]


def run_case(case: Case, door: str, base: Base, folder: Path) -> Outcome:
    """Build a hostile file in a folder, and give it to a command that runs in another one, in this process."""
    made = case.make(base, folder / "made", door in ("folder", "hub"))
    here = folder / "here"
    here.mkdir()
    (here / "texts.txt").write_text("3 1 19\n")
    if door == "models":
        shutil.copy(made, here / made.name)
    before = _files(folder)
    with _surroundings(here):
        code, answer, printed = _answer(door, made)
    new = sorted(str(file.relative_to(folder)) for file in _files(folder) - before)
    executed = any(Path(file).name == CANARY for file in new)
    text = {name: (here / name).read_text() for name in ("x.html", "x.md", "x.csv") if (here / name).exists()}
    left = tuple(file for file in new if Path(file).name not in _WANTED)
    table = text.pop("x.csv", "")
    return Outcome(code, answer, printed, executed, left, "".join(text.values()), table)


def _answer(door: str, made: Path) -> tuple[int, str, str]:
    import xlm
    from xlm.cli.main import main
    from xlm.errors import XLMError

    if door in ("load", "folder", "hub"):
        try:
            # The hub's client on a local folder.
            with mock.patch("xlm.inference.sources.snapshot_download", return_value=str(made)):
                xlm.load("owner/model" if door == "hub" else made)
        except XLMError as error:
            return 1, str(error), ""
        return 0, "", ""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([word.format(made) for word in DOORS[door]])
    return code, err.getvalue().strip(), out.getvalue()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


@contextlib.contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """A current folder of its own, with the bigram model and with caches in it."""
    from xlm.external_models import activate

    before, variables = Path.cwd(), dict(os.environ)
    os.environ |= {
        "XLM_MODELS_PATH": str(MODELS),
        "XLM_CACHE_DIR": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder),
    }
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ |= variables
        activate({})


def main(words: Sequence[str] = ()) -> int:
    """Print the table as Markdown; returns 1 if a payload ran or a traceback was shown."""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        print("| input | through | answer | ran | left behind |\n| --- | --- | --- | --- | --- |")
        for number, case in enumerate(case for case in CASES if not words or any(w in case.name for w in words)):
            found: dict[tuple[str, bool, tuple[str, ...]], list[str]] = {}
            for door in doors_of(case):
                outcome = run_case(case, door, base, _new(Path(place) / f"{number}-{door}"))
                bad += outcome.executed or "Traceback" in outcome.answer
                named = [line for line in outcome.printed.splitlines() if case.answer and case.answer in line]
                first = [*outcome.answer.splitlines(), *named, "the page or list, escaped"][0]
                first = first.replace(f"{place}/{number}-{door}/made", "…").replace(f"{place}/{number}-{door}/", "")
                found.setdefault((_short(first), outcome.executed, outcome.left), []).append(door)
            for (answer, ran, left), doors in found.items():
                cells = [
                    case.name,
                    ", ".join(doors),
                    answer,
                    "**yes**" if ran else "nothing",
                    ", ".join(left) or "nothing",
                ]
                print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)
    return 1 if bad else 0


def _short(answer: str) -> str:
    from xlm.errors import as_line

    text = as_line(re.sub(r"^Error: |\b\w+\.(checkpoint_path|ckpt_path): ", "", answer))
    # How the user trusts a file, and which form of it was read, differ between commands.
    text = re.sub(r" If you trust its author, give [\w.=]+$", "", text)
    text = text.replace("…/checkpoints/model.ckpt", "…").replace("…/model/xlm_config.yaml", "…")
    return text if len(text) <= 230 else f"{text[:230]} …"


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
