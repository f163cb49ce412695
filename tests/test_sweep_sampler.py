"""`xlm sweep_sampler`: every setting on the same examples, taken up where it was killed, and mistakes as a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.cli.main import main
from xlm.commands import eval as evaluation
from xlm.commands import sweep_sampler, train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.evaluation.pareto import COSTS, Point, front

CHOICE = (
    "experiment=star_mini_mdlm", "model=xtiny_mdlm", "job_name=mine", "trainer_strategy=cpu", "loggers=debug",
    "datamodule.dataset_managers.test.prediction.num_examples=40",
    "datamodule.dataset_managers.test.lm.num_examples=4",
)  # fmt: skip
TRAIN = (
    "datamodule.dataset_managers.train.lm.num_examples=640", "datamodule.dataset_managers.val.lm.num_examples=8",
    "datamodule.dataset_managers.val.prediction.num_examples=4", "per_device_batch_size=16", "trainer.max_steps=40",
    "trainer.val_check_interval=40", "test_after_training=false",
)  # fmt: skip
SWEEP = ("sweep.num_steps=[1,2,null]", "sweep.temperature=[0.0,1.0]", "sweep.num_examples=30")


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """A directory with a run of a few steps."""
    train.run(load_config([*CHOICE, *TRAIN]))
    return home


def sweep(*overrides: str) -> list[Point]:
    return sweep_sampler.run(load_config([*CHOICE, "~datamodule.dataset_managers.train", *overrides]))


def test_a_sweep_measures_every_setting_and_goes_on_after_a_kill(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = sweep(*SWEEP)
    assert [(p.options["num_steps"], p.options["temperature"]) for p in points] == [
        (steps, temperature) for steps in (1, 2, None) for temperature in (0.0, 1.0)
    ]
    assert [p.network_calls for p in points if p.options["num_steps"]] == [1, 1, 2, 2]
    assert {p.n for p in points} == {30}
    folder = home / "runs/mine/sweep_test"
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["num_steps"] for row in rows] == ["1", "1", "2", "2", "null", "null"]
    assert [float(row["token_accuracy"]) for row in rows] == [
        pytest.approx(p.metrics["token_accuracy"][0], abs=1e-4) for p in points
    ]
    assert len((folder / "sweep.md").read_text().splitlines()) == 2 + len(points)
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "sweep.json").read_text())
    assert [Point.from_dict(values) for values in record["points"]] == points
    # Killed while the third point was being written: only from there on anything is measured.
    kept = (folder / "points.jsonl").read_text().splitlines()
    (folder / "points.jsonl").write_text("\n".join(kept[:2]) + "\n" + kept[2][:40])
    measured: list[Any] = []
    real = sweep_sampler._measure

    def counted(harness: Any, predictor: Any, options: Any, *rest: Any) -> Point:
        measured.append(options)
        return real(harness, predictor, options, *rest)

    monkeypatch.setattr(sweep_sampler, "_measure", counted)
    again = sweep(*SWEEP)
    assert measured == [p.options for p in points[2:]]
    assert again[:2] == points[:2]
    assert [p.metrics for p in again] == [p.metrics for p in points]
    measured.clear()
    sweep(*SWEEP[:2], "sweep.num_examples=20")
    assert len(measured) == 6, "other examples are other points"


def test_a_point_is_what_eval_measures(home: Path) -> None:
    """On the same examples, with greedy draws, and a standard error of the mean."""
    (point,) = sweep("sweep.num_steps=[2]", "sweep.num_examples=40", "sweep.metric=token_accuracy")
    assert next(iter(point.metrics)) == "token_accuracy"
    cfg = load_config([*CHOICE, "~datamodule.dataset_managers.train", "predictor.num_steps=2", "eval.num_samples=0"])
    found = evaluation.run(cfg)
    for name in ("exact_match", "token_accuracy"):
        assert point.metrics[name][0] == pytest.approx(found[f"test/prediction/{name}"], abs=1e-6)
    p, error = point.metrics["exact_match"]
    assert error == pytest.approx((p * (1 - p) / 39) ** 0.5)
    assert point.network_calls == found["test/prediction/network_calls"]


def test_a_checkpoint_brings_its_configuration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (point,) = sweep("sweep.num_steps=[2]", "sweep.num_examples=10", "sweep.output_path=as_named")
    args = ["sweep_sampler", "sweep.num_steps=[2]", "sweep.num_examples=10", "~datamodule.dataset_managers.train"]
    assert main([*args, "sweep.checkpoint_path=runs/mine", "job_name=again"]) == 0, capsys.readouterr().err
    record = json.loads(Path("runs/again/sweep_test/sweep.json").read_text())
    assert [Point.from_dict(values).metrics for values in record["points"]] == [point.metrics]
    assert record["weights"].endswith("runs/mine/checkpoints/best.ckpt")
    assert main([*args, "sweep.checkpoint_path=runs/none.ckpt"]) != 0
    assert capsys.readouterr().err.startswith(
        "Error: sweep.checkpoint_path: There is no file or folder runs/none.ckpt."
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.num_step=[1]"], r"Unknown option 'sweep\.num_step'.*Did you mean 'sweep\.num_steps'\?"),
        (["sweep.split=test"], r"Nothing to sweep over. Give sweep\.<option>=\[…\] for one of: sampler, num_steps"),
        (["sweep.num_steps=[]"], r"sweep\.num_steps has no values"),
        (["sweep.num_steps=[0]"], r"predictor\.num_steps is 0, and must be at least 1"),
        (["sweep.num_steps=[1]", "sweep.split=train"], r"sweep\.split is 'train', and must be val or test"),
        (["sweep.remasking=[0.1,0.2]"], r"sweep\.remasking would change nothing: sampler=confidence does not use it"),
        (
            ["sweep.sampler=[ancestral,remasking]", "sweep.num_steps=[2]", "sweep.threshold=[0.5]"],
            r"sweep\.threshold would change nothing: sampler=ancestral does not use it; sampler=remasking does not",
        ),
        (["sweep.num_steps=[1]", "sweep.num_examples=1"], r"sweep\.num_examples is 1, and must be at least 2"),
        (["sweep.num_steps=[1]", "sweep.metric=exact"], r"no metric 'exact'.*Did you mean 'exact_match'\?"),
    ],
)
def test_mistakes_are_a_sentence(
    home: Path, overrides: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep("sweep.output_path=nothing", *overrides)
    assert not (home / "nothing").exists()
    assert not [text for text in caplog.messages if "no effect" in text], "said once is enough"


def test_what_is_not_read_or_not_there_is_said(
    home: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    points = sweep(
        "sweep.sampler=[confidence,remasking]", "sweep.remasking=[0.125]", "sweep.num_steps=[2]",
        "sweep.num_examples=70", "sweep.output_path=some",
    )  # fmt: skip
    assert [point.n for point in points] == [40, 40]
    said = "sweep.num_examples is 70, but there are only 40 examples in test/prediction; all of them are used."
    assert said in capsys.readouterr().out
    effects = [text for text in caplog.messages if "no effect" in text]
    assert effects == ["predictor.remasking=0.125 has no effect: sampler=confidence does not use it."]


MEASURED = st.builds(
    lambda quality, calls, seconds: Point({}, {"q": (quality, 0.0)}, 2, calls, seconds),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.none() | st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from([0.5, 1.0, 2.0]),
)


@given(st.lists(MEASURED, max_size=8))
def test_the_front_is_what_nothing_beats(points: list[Point]) -> None:
    for cost in COSTS:
        best = front(points, "q", cost)
        spent = [p.cost(cost) for p in best]
        quality = [p.metrics["q"][0] for p in best]
        assert spent == sorted(spent, key=float)  # type: ignore[arg-type]
        assert quality == sorted(set(quality))
        for point in points:
            if (its := point.cost(cost)) is not None:
                assert any(
                    float(c) <= its and q >= point.metrics["q"][0]  # type: ignore[arg-type]
                    for c, q in zip(spent, quality, strict=True)
                )
