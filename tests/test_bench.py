"""The benchmark suite: its clock, its tables, peers that do the same work, and the ratios that must not be lost."""

from __future__ import annotations

import json
import math
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bench
from benchmarks import training
from benchmarks.devices import PEAKS, peak_of
from benchmarks.measure import Case, Setting, Spent, Way, allocated_peak_mib, figure_of, of_command, once, spread
from benchmarks.networks import FAMILIES, Shape, collator_of, examples_of, network_of, parts_of, tokenizer_of
from benchmarks.products import Products, counted, operations_per_token, seconds_alone
from benchmarks.tables import markdown
from benchmarks.worker import AREAS, cases_of
from xlm.modules.linear_cross_entropy import linear_cross_entropy

QUICK = Setting(is_quick=True)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA T4", None),
        ("cpu: 1 threads, x86_64", None),
    ],
)
def test_a_peak_is_found_by_the_name_of_the_device(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak
    assert all(1e13 < value < 1e16 for value in PEAKS.values())


def test_a_command_is_measured_with_its_children_and_a_failure_is_no_measurement(tmp_path: Path) -> None:
    burn = "import time, sys\nwhile time.process_time() < 0.3: pass\nx = bytearray(60 * 2**20)"
    spent = of_command([sys.executable, "-c", burn], tmp_path)
    assert 0.25 < spent.cpu < 1.5
    assert spent.memory_mib is not None
    assert spent.memory_mib > 60
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3:\nwhat it said"):
        of_command([sys.executable, "-c", "print('what it said'); raise SystemExit(3)"], tmp_path)


def test_products_are_those_of_the_run() -> None:
    weight = torch.randn(300, 500, requires_grad=True)
    x = torch.randn(400, 300)
    found = counted(lambda: (x @ weight).sum().backward(), is_training=True)
    # The input needs no gradient, so backward has one product.
    assert dict(+found.counts) == {(1, 400, 300, 500): 1, (1, 300, 400, 500): 1}
    assert found.total == 2 * 2 * 400 * 300 * 500
    # The fused output layer: three products, also where it computes by chunks.
    hidden = torch.randn(300, 8, requires_grad=True)
    head, targets = torch.randn(5000, 8, requires_grad=True), torch.zeros(300, dtype=torch.long)
    fused = counted(lambda: linear_cross_entropy(hidden, head, None, targets).backward(), is_training=True)
    assert fused.total == 3 * 2 * 300 * 8 * 5000
    q = torch.randn(2, 4, 8, 16)
    attention = counted(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), is_training=False)
    assert attention.total == 2 * (2 * 2 * 4 * 8 * 8 * 16)
    assert 0 < seconds_alone(found, "cpu", torch.float32) < 1
    assert seconds_alone(Products(False), "cpu", torch.float32) == 0


def test_figures_are_medians_of_rounds_and_ratios_are_per_unit() -> None:
    case = Case("a", "c", "s", "tokens", lambda setting: None)
    ours = [Spent(2.0, 3.0, 10), Spent(1.0, 2.0, 10), Spent(4.0, 9.0, 10)]
    # Twice the units at three times the cost.
    peer = [Spent(6.0, 9.0, 20), Spent(3.0, 6.0, 20), Spent(12.0, 27.0, 20)]
    figure = figure_of(case, Way("peer", lambda: None), peer, ours, "cpu")
    assert figure.ratio == pytest.approx(1.5)
    assert (figure.cpu, figure.wall, figure.repetitions) == (6.0, 9.0, 3)
    assert figure.per_second == pytest.approx(20 / 6)
    own = figure_of(case, Way("xlm", lambda: None), ours, ours, "cpu")
    assert own.ratio == 1
    assert spread([1.0]) == 0
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(0.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_losses_are_the_same_losses(family: str) -> None:
    shape = replace(training.QUICK, L=16)
    batch = collator_of(family, shape)(examples_of(shape, shape.B, shortest=0.3))
    network = network_of(family, shape, "cpu").double()
    batch = {name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
             for name, value in batch.items()}  # fmt: skip
    ours = parts_of(family)[1](network, tokenizer_of(shape)).loss_fn(batch)["loss"]
    assert training.PLAIN[family](network, batch).item() == pytest.approx(ours.item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("V", [300, 40000])
def test_the_formula_of_the_performance_page_is_what_a_step_computes(family: str, V: int) -> None:
    shape = Shape(B=16, L=32, V=V, d=64, layers=3, heads=2)
    batch = collator_of(family, shape)(examples_of(shape, shape.B))
    loss = parts_of(family)[1](network_of(family, shape, "cpu"), tokenizer_of(shape))
    found = counted(lambda: loss.loss_fn(batch)["loss"], is_training=True)
    expected = sum(operations_per_token(family, shape.d, shape.layers, shape.L, V))
    assert found.total / (shape.B * shape.L) == pytest.approx(expected, rel=0.07)


def test_every_area_has_cases_with_names_of_their_own() -> None:
    for area in AREAS:
        for setting in (QUICK, Setting()):
            keys = [case.key for case in cases_of(area, setting)]
            assert keys
            assert len(set(keys)) == len(keys)


class Fake:
    """A worker in this process, whose two ways cost 1 and 3 seconds, the second for twice the work."""

    def ask(self, **request: Any) -> Any:
        if "open" in request:
            product = {"memory_mib": 5.0, "operations": 4e9, "seconds_alone": 0.5}
            return [{"name": "xlm", **product}, {"name": "peer"}]
        return [vars(Spent(1.0, 2.0, 10)), vars(Spent(3.0, 6.0, 20))]


def test_sides_take_turns_and_the_table_says_what_each_costs() -> None:
    case = Case("a", "c", "B 1", "tokens", lambda setting: None)
    alone: Any = {bench.HERE: Fake()}
    ours, peer = bench.measure(case, alone, 3, "cpu")
    assert (ours.gflops, ours.peak_share, ours.memory_mib) == (4.0, 0.5, 5.0)
    assert (round(peer.ratio, 6), peer.gflops, peer.repetitions) == (1.5, None, 3)
    both: Any = {bench.HERE: Fake(), "main": Fake()}
    assert [(f.way, f.ratio) for f in bench.measure(case, both, 2, "cpu")] == [
        ("xlm", 1.0), ("xlm, main", 1.0), ("peer", 1.0), ("peer, main", 1.0)
    ]  # fmt: skip
    machine = {"device": "x", "cores": 2, "load": [0.1], "threads": 1, "matmul_peak_gflops": 99.0}
    machine |= dict.fromkeys(("python", "torch", "lightning", "transformers"), "1")
    record = {"date": "2026-11-30", "commit": "abc", "command": "hatch run bench", "precision": "fp32",
              "machine": machine, "figures": [ours.as_dict(), peer.as_dict()],
              "failures": {"b: d": "no such thing\nmore"}}  # fmt: skip
    page = markdown(record)
    assert "| xlm | 1 ± 0% | 2 ± 0% | 10 tokens | 1.00 × | 5 | 4.0 | 50% |" in page
    assert "|  | peer | 3 ± 0% | 6 ± 0% | 6.667 tokens | 1.50 × |  |  |  |" in page
    assert "- b: d failed: no such thing" in page


def test_a_repetition_is_timed_unless_it_says_itself_what_counts() -> None:
    known = Spent(0.5, 0.7)
    assert once(Way("x", lambda: known, 3), "cpu") == Spent(0.5, 0.7, 3)
    assert once(Way("x", lambda: None), "cpu").cpu < 0.5


def test_without_a_device_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench.main(["--device", "cuda"]) == 1
    assert "--device cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["trainings"])
    assert "no area 'trainings'; areas: training" in capsys.readouterr().err


@contextmanager
def worker() -> Any:
    with bench.Side(bench.ROOT, Setting(), 1, False) as side:
        yield side


# The ratios that this project is chosen for: area, case, peer, and what it must cost at least, relative to ours.
# Half of what was measured is allowed to be lost to a busy machine.
PRECIOUS = [
    ("training", "mlm, large vocabulary", "plain loss", 1.5),
    ("training", "mdlm, large vocabulary", "plain loss", 1.2),
    ("generation", "arlm, 16 rows", "gpt2", 0.9),
    ("generation", "mdlm, one row, large vocabulary", "plain sampler", 3.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("area", "name", "peer", "least"), PRECIOUS, ids=lambda value: str(value))
def test_no_precious_ratio_is_lost(area: str, name: str, peer: str, least: float) -> None:
    """Slow: full shapes, and a process of its own whose threads and clock nothing else shares."""
    [case] = [case for case in cases_of(area, Setting()) if case.name == name]
    with worker() as side:
        figures = bench.measure(case, {bench.HERE: side}, 3, "cpu")
    [found] = [figure for figure in figures if figure.way == peer]
    assert found.ratio > least, f"{peer} costs {found.ratio:.2f} × ours"


@pytest.mark.slow
def test_a_quick_run_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: it starts a process that imports torch and transformers, and torch's profiler here."""
    assert 7.6 < allocated_peak_mib(lambda: torch.zeros(2000, 1000).sum(), "cpu") < 8
    words = ["training", "collators", "shipped", "--quick", "--only", "mlm", "--size", "xtiny", "--batch-size", "16"]
    assert bench.main([*words, "--no-compile", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    assert {figure["area"] for figure in record["figures"]} == {"training", "collators", "shipped"}
    assert all(math.isfinite(figure["cpu"]) and figure["ratio"] > 0 for figure in record["figures"])
    shipped = next(figure for figure in record["figures"] if figure["area"] == "shipped")
    assert shipped["values"]["gflops"] > 0.001
    assert 0 < shipped["values"]["of_measured_peak"] < 1
    assert "## training" in (tmp_path / "bench.md").read_text()
    assert "bert" in capsys.readouterr().out
