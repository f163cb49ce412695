"""The curves of a run: panels, axes, legends and the best checkpoint, read from the figure."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from xlm.training.curves import Best, Series, best_of, collect, curves_figure, draw_curves, is_logarithmic, series_names
from xlm.utils.figures import log_ticks, plain, powers_of_two
from xlm.utils.palette import SERIES

COSINE = [0.001, 0.002, *(0.001 * (1 + math.cos(math.pi * k / 40)) for k in range(1, 40)), 1e-9]


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 100 steps with four validations, one of them interrupted; two loaders of predictions."""
    rows: list[tuple[int, str, float]] = []
    for step in range(10, 101, 10):
        values = {"lm/accumulated_loss": 30 / step, "lr": 0.1, "tokens_per_second": 500.0 + step, "mfu": 0.1 / step}
        rows += [(step, f"train/{name}", value) for name, value in values.items()]
    for step, loss in ((25, 2.0), (50, 0.5), (75, 0.5), (100, math.nan)):
        values = {"lm/accumulated_loss": loss, "easy/exact_match": step / 400, "hard/exact_match": 0.0}
        rows += [(step, f"val/{name}", value) for name, value in {**values, "easy/network_calls": 7.0}.items()]
    return write(tmp_path_factory.mktemp("curves") / "metrics.csv", [*rows, (100, "test/lm/accumulated_loss", 0.4)])


def write(path: Path, rows: list[tuple[int, str, float]]) -> Path:
    path.write_text("step,name,value,time\n" + "".join(f"{step},{name},{value},{step}\n" for step, name, value in rows))
    return path


def axes_of(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def laid_out(panels: dict[str, Series], best: Best | None = None) -> Figure:
    figure = curves_figure(panels, "a run", best)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


@pytest.fixture(scope="module")
def figure(csv_path: Path) -> Figure:
    panels = collect(csv_path)
    return laid_out(panels, best_of(panels, "val/lm/accumulated_loss"))


def titles(axes: Axes) -> list[Text]:
    """The titles of a panel and of its axes."""
    wanted = {axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()}
    return [text for text in axes.findobj(Text) if text.get_text() in wanted]


def test_panels_join_training_and_validation(figure: Figure) -> None:
    found = axes_of(figure)
    assert list(found) == ["loss", "exact match", "tokens per second"]
    lines = {line.get_label(): line for line in found["loss"].get_lines()}
    assert lines["train"].get_xdata()[-1] == 100  # type: ignore[index]
    assert list(lines["val"].get_xdata()) == [25, 50, 75]  # type: ignore[arg-type]
    assert [lines[name].get_color() for name in ("train", "val")] == list(SERIES[:2])
    assert found["exact match"].get_lines()[0].get_color() == SERIES[1], "validation looks the same everywhere"


def test_axes_have_units_plain_numbers_and_limits_that_can_be_compared(figure: Figure) -> None:
    found = axes_of(figure)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in found.values()] == [
        ("optimizer step", "nats (log)"), ("optimizer step", "share of examples"), ("optimizer step", "tokens/s"),
    ]  # fmt: skip
    assert found["exact match"].get_ylim() == pytest.approx((0, 1), abs=0.04)
    assert found["tokens per second"].get_ylim()[0] == 0
    assert found["loss"].get_yscale() == "log"
    assert len({axes.get_xlim() for axes in found.values()}) == 1
    for axes in found.values():
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        labels = [label.get_text() for label, at in ticks if low <= at <= high]
        assert len(labels) >= 2
        assert "10^" not in "".join(labels)


def test_what_never_changes_is_named_below_the_panels(figure: Figure) -> None:
    text = " ".join(figure.get_supxlabel().split("\n"))
    assert "Constant, not drawn: train/lr 0.1, val/easy/network_calls 7, val/hard/exact_match 0." in text
    assert "best checkpoint, step 75, val/lm/accumulated_loss 0.5." in text


def test_the_best_checkpoint_is_the_last_best_validation(figure: Figure, csv_path: Path) -> None:
    loss = axes_of(figure)["loss"]
    (star,) = [line for line in loss.get_lines() if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (75, 0.5)  # type: ignore[index]
    panels = collect(csv_path)
    assert best_of(panels, "val/easy/exact_match", "max") == Best("val/easy/exact_match", 100, 0.25)
    assert best_of(panels, "val/none/at_all") is None


def test_legends_are_outside_of_the_data(figure: Figure) -> None:
    many = {"x": {f"val/{n}": [(1, 0.1 * n), (2, 1.0)] for n in range(1, 8)}, "y": {"val/lm": [(1, 1.0), (2, 2.0)]}}
    for axes in (*figure.axes, *laid_out(many).axes):
        legend = axes.get_legend()
        if legend is not None:
            box = legend.get_window_extent()
            assert not any(box.overlaps(other.get_window_extent()) for other in (axes, *titles(axes)))
    assert axes_of(figure)["loss"].get_legend() is not None
    assert axes_of(figure)["exact match"].get_legend() is None


def test_no_text_overlaps_another(figure: Figure) -> None:
    boxes = [text.get_window_extent() for axes in figure.axes for text in titles(axes)]
    boxes += [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 3 * 3 + 2
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[n + 1 :])


@pytest.mark.parametrize(
    ("metric", "values", "is_log"),
    [
        ("accumulated_loss", [3.0, 0.3], True),
        ("accumulated_loss", [3.0, 0.4], False),
        ("accumulated_loss", [3.0, 0.0], False),
        ("accumulated_loss", [3.0, -0.1], False),
        ("exact_match", [1e-3, 1.0], False),
        ("lr", COSINE, False),
        ("lr", [10 ** (-7 + k / 10) for k in range(60)], True),
    ],
)
def test_logarithmic_axes(metric: str, values: list[float], is_log: bool) -> None:
    assert is_logarithmic(metric, values) == is_log


def test_a_share_beyond_one_keeps_its_own_axis() -> None:
    panels = {"accuracy": {"val/a": [(1, 0.5), (2, 3.0)]}}
    assert axes_of(laid_out(panels))["accuracy"].get_ylim()[1] > 2.9


def test_losses_come_first_then_shares_and_speed_last() -> None:
    points = [(1, 0.5), (2, 0.25)]
    names = ("tokens_per_second", "insertion_ce", "lr", "network_calls", "exact_match", "accumulated_loss")
    panels = axes_of(laid_out({name: {"val/a": points} for name in names}))
    assert [*panels] == ["loss", "exact match", "insertion ce", "network calls", "learning rate", "tokens per second"]
    assert [panels[name].get_ylabel() for name in ("insertion ce", "network calls")] == ["nats", "calls per sample"]


def test_loaders_are_named_where_a_split_has_several() -> None:
    assert series_names(["train/lm", "val/lm"]) == {"train/lm": "train", "val/lm": "val"}
    assert series_names(["train", "val/a", "val/b"]) == {"train": "train", "val/a": "val/a", "val/b": "val/b"}


def test_without_a_curve_there_is_no_picture(tmp_path: Path) -> None:
    assert draw_curves(tmp_path / "none.csv", tmp_path / "none.png", "title") is None
    rows = [(1, "train/lm/accumulated_loss", 1.0), (1, "train/lr", 0.1)]
    one = write(tmp_path / "one.csv", rows)
    assert draw_curves(one, tmp_path / "one.png", "title") is None
    two = write(tmp_path / "two.csv", [*rows, (2, "train/lm/accumulated_loss", 0.9)])
    picture = draw_curves(two, tmp_path / "new/two.png", "größe 模型", "val/lm/accumulated_loss")
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ticks_are_plain_numbers() -> None:
    assert [plain(v) for v in (0, 0.25, 1.0, 3000, 20_000, 1.5e6, 5e-6, 0.0005)] == [
        "0", "0.25", "1", "3,000", "20k", "1.5M", "5e-6", "0.0005",
    ]  # fmt: skip
    assert powers_of_two(1, 15) == [1, 2, 4, 8, 16]
    assert powers_of_two(8, 8) == [8, 16]
    assert powers_of_two(0.3, 1.1) == [0.25, 0.5, 1, 2]
    assert len(powers_of_two(1, 4096)) <= 9
    assert log_ticks(0.18, 3.3) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5])
    for low, high in ((1e-7, 1.0), (0.9, 9.5), (2, 2.5), (99, 1001)):
        ticks = log_ticks(low, high)
        assert ticks[0] <= low * 1.001
        assert ticks[-1] >= high * 0.999
        assert all(a < b for a, b in pairwise(ticks))
