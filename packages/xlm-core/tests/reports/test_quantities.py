"""Only numbers of the same quantity are compared: likelihoods of one name, losses of one kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xlm.reports.document import build_report, panels
from xlm.reports.listing import as_lines, sort_runs
from xlm.reports.page import as_markdown, render_page
from xlm.reports.run import Run, read_run

if TYPE_CHECKING:
    from .conftest import WriteRun

GIVEN = "is given the length of each text, so it is not a likelihood of the text and is not compared."
CONFIG = """\
job_name: {name}
model_name: {model}
loss: {loss}
collators:
  lm: {collator}
datamodule:
  dataset_managers:
    train: {{lm: {{collator: "${{collators.lm}}"}}}}
    test: {{lm: {{collator: "${{collators.lm}}"}}}}
"""


def run_of(
    write_run: WriteRun, name: str, model: str, nll: str, value: float, *, collator: str = "{}", loss: str = "{}",
    older: bool = False,
) -> Run:  # fmt: skip
    """A run whose training ended with a loss of `value`, and whose likelihood has a name and the same value."""
    folder = write_run(name, model=model)
    (folder / "config.yaml").write_text(CONFIG.format(name=name, model=model, loss=loss, collator=collator))
    results = json.loads((folder / "results.json").read_text())
    results["metrics"]["test/lm/accumulated_loss"] = value
    (folder / "results.json").write_text(json.dumps(results))
    likelihood: dict[str, Any] = {
        f"{nll}_per_token": {"value": value, "se": 0.1},
        nll.replace("nll", "perplexity"): {"value": 2 * value, "se": 0.1},
        "kind": "upper bound",
        "of": f"-log p of the sampler of {model}",
        "n": 9,
        **({} if older else {"bytes": "source"}),
    }
    (folder / "eval_test.json").write_text(json.dumps({"likelihood": {"test/lm": likelihood}}))
    return read_run(folder)


def columns(runs: list[Run]) -> dict[str, list[float | None]]:
    (values,) = (values for values in build_report(runs).values if values.split == "test")
    cells = zip(*values.rows, strict=True)
    found = {c.label: [m and m.value for m in cell] for c, cell in zip(values.columns, cells, strict=True)}
    return {label: cell for label, cell in found.items() if "exact" not in label}


def best(runs: list[Run]) -> set[tuple[str, str]]:
    (values,) = (values for values in build_report(runs).values if values.split == "test")
    return {(runs[row].name, values.columns[column].label) for row, column in values.best}


def test_a_likelihood_of_another_name_stands_beside_no_nll(write_run: WriteRun) -> None:
    runs = [
        run_of(write_run, "left", "arlm", "nll", 3.0),
        run_of(write_run, "a", "mdlm", "nll_given_length", 2.0, collator="{text_length: given}"),
        run_of(write_run, "b", "mdlm", "nll_given_length", 1.0, collator="{text_length: given}"),
        run_of(write_run, "c", "mdlm", "nll_lm1b_protocol", 0.5, collator="{text_length: lm1b_protocol}"),
        run_of(write_run, "i", "ilm", "sampler_nll_bound", 0.25),
    ]
    found = columns(runs)
    assert found["nll per token"] == [3.0, None, None, None, None]
    assert found["perplexity"] == [6.0, None, None, None, None]
    assert found["nll given length per token"] == [None, 2.0, 1.0, None, None]
    assert {"nll lm1b protocol per token", "sampler nll bound per token", "perplexity given length"} <= set(found)
    assert best(runs) == {("b", "loss, mdlm, text_length=given")}
    report = build_report(runs)
    for text in (as_markdown(report), render_page(report)):
        assert f"a, b: nll_given_length {GIVEN}" in text
        assert "c: nll_lm1b_protocol is -log p of the sampler of mdlm, so it is not compared with nll." in text
        assert "i: sampler_nll_bound is -log p of the sampler of ilm, so it is not compared with nll." in text
        assert "left: " not in as_markdown(report)


@pytest.mark.parametrize(
    ("collator", "older", "column"),
    [
        ("{loss_on_padding: false}", True, "nll given length per token"),
        ("{loss_on_padding: true}", True, "nll per token"),
        ("{}", True, "nll per token"),
        ("{loss_on_padding: false}", False, "nll per token"),
        ("{loss_on_padding: false, text_length: modelled}", True, "nll given length per token"),
        ("{loss_on_padding: null, text_length: '${oc.select:text_length,learnt}'}", True, "nll per token"),
        ("{text_length: '${oc.select:nowhere,given}'}", True, "nll given length per token"),
        ("{loss_on_padding: '${padding}'}", True, "nll per token"),
    ],
)
def test_older_records_get_the_name_that_they_should_have(
    write_run: WriteRun, collator: str, older: bool, column: str
) -> None:
    run = run_of(write_run, "a", "mlm", "nll", 2.0, collator=collator, older=older)
    found = columns([run, run_of(write_run, "b", "arlm", "nll", 1.0)])
    assert found[column][0] == 2.0
    assert [label for label, cell in found.items() if label.startswith("nll") and cell[0]] == [column]


def kinds(write_run: WriteRun) -> list[Run]:
    return [
        run_of(write_run, "left", "arlm", "nll", 3.0),
        run_of(write_run, "a", "mlm", "nll", 2.0, loss="{weighting: none, chunk_elements: 4}"),
        run_of(write_run, "b", "mlm", "nll", 1.0, loss="{weighting: none}"),
        run_of(write_run, "e", "mlm", "nll", 0.5, loss="{weighting: elbo}"),
    ]


def test_losses_are_compared_within_one_kind(write_run: WriteRun) -> None:
    """One of MLM is a mean over masks or a bound; those are no likelihood and one, and ARLM's is exact."""
    runs = kinds(write_run)
    assert {label: cell for label, cell in columns(runs).items() if "loss" in label} == {
        "loss, arlm": [3.0, None, None, None],
        "loss, mlm, weighting=none": [None, 2.0, 1.0, None],
        "loss, mlm, weighting=elbo": [None, None, None, 0.5],
    }
    assert {name for name, label in best(runs) if "loss" in label} == {"b"}
    remark = "The losses of arlm · mlm, weighting=none · mlm, weighting=elbo are different quantities and not compared"
    assert remark in as_markdown(build_report(runs))
    same = [runs[1], runs[2]]
    assert "loss" in columns(same)
    assert "different quantities" not in as_markdown(build_report(same))


def test_curves_of_different_losses_share_no_panel(write_run: WriteRun) -> None:
    found = [p for p in panels(kinds(write_run)) if p.name == "train/lm/accumulated_loss"]
    assert {panel.kind: [curve.run for curve in panel.curves] for panel in found} == {
        "arlm": [0], "mlm, weighting=none": [1, 2], "mlm, weighting=elbo": [3],
    }  # fmt: skip


def test_a_list_sorts_each_kind_of_loss_by_itself(write_run: WriteRun) -> None:
    runs = kinds(write_run)
    without = read_run(write_run("z", model="zlm", ended=False))
    assert [run.name for run in sort_runs([without, *runs], "loss")] == ["left", "e", "b", "a", "z"]
    assert (
        "different quantities and not compared with each other: sort=loss sorts each of them separately"
        in as_lines(runs)[-1]
    )
    assert not [line for line in as_lines(runs[1:3]) if "quantities" in line]


def test_a_folder_may_hold_anything(tmp_path: Path) -> None:
    """A configuration that refers to itself, and a likelihood that is none."""
    (tmp_path / "config.yaml").write_text(
        "model_name: x\nloss: 3\ncollators: {lm: '${collators.lm}'}\n"
        "datamodule: {dataset_managers: {test: {lm: {collator: '${collators.lm}'}}, val: 7}}\n"
    )
    (tmp_path / "eval_test.json").write_text('{"likelihood": {"test/lm": {"nll_per_token": {"value": 1}}, "x": 3}}')
    (tmp_path / "results.json").write_text('{"metrics": {"test/lm/accumulated_loss": 1.0}, "likelihood": []}')
    run = read_run(tmp_path)
    assert run.measured["test/lm/nll_per_token"].value == 1
    assert columns([run, run])["loss"] == [1.0, 1.0]
