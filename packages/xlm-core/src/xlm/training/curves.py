"""A picture of the learning curves, drawn from what the run logged."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from xlm.training.loggers import read_metrics

Series = dict[str, list[tuple[int, float]]]


def collect(csv_path: Path) -> dict[str, Series]:
    """Panels of the picture: metric → series name (split/loader) → (step, value) pairs."""
    panels: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for step, name, value, _ in read_metrics(csv_path):
        parts = name.split("/")
        if parts[0] == "test":
            continue
        if len(parts) == 3:
            panels[parts[2]][f"{parts[0]}/{parts[1]}"].append((step, value))
        elif name in ("train/lr", "train/tokens_per_second"):
            panels[parts[1]]["train"].append((step, value))
    return {panel: dict(series) for panel, series in panels.items()}


def draw_curves(csv_path: Path, png_path: Path, title: str) -> Path | None:
    """Write a PNG with one panel per metric; None when nothing has been logged yet."""
    # matplotlib takes a second to import and only pictures need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = collect(csv_path) if csv_path.exists() else {}
    if not panels:
        return None
    last = ("lr", "tokens_per_second")
    order = sorted(panels, key=lambda p: (p in last, p != "accumulated_loss", p))
    columns = min(len(order), 3)
    rows = -(-len(order) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, panel in enumerate(order):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, points in sorted(panels[panel].items()):
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 30 and not name.startswith("train") else None
            width = 1.0 if name.startswith("train") else 1.8
            axes.plot(steps, values, label=name, marker=marker, markersize=3, linewidth=width)
        axes.set_title(panel.replace("_", " "), fontsize=10)
        axes.set_xlabel("optimizer step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panels[panel]) > 1:
            axes.legend(fontsize=8, frameon=False)
    png_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=120)
    return png_path
