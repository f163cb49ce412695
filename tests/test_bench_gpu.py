"""The benchmark for GPUs: peaks by name, and a run on the CPU that shows that the script works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench_gpu import PEAKS, main, peak_of


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
def test_the_script_measures_a_family_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "cpu", "--steps", "3", "--warmup", "1", "--size", "xtiny", "--no-compile", "mlm"]
    output = tmp_path / "bench.json"
    assert main([*words, "--batch-size", "16", "--workers", "0", "--output", str(output)]) == 0
    (row,) = json.loads(output.read_text())
    assert row["steps"] == 3
    assert row["mfu"] is None
    assert row["operations_per_second"] > 1e6
    assert row["tokens_per_second"] > 100
    assert 0 < row["share_of_measured_peak"] < 1
    assert "mlm" in capsys.readouterr().out


def test_without_a_device_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--output", str(tmp_path / "b.json")]) == 1
    assert "--device cpu" in capsys.readouterr().err
