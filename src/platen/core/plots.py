"""The plots of an evaluation and of a comparison, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#6b7280"


def loss_by_position(path: Path, losses: Sequence[float], mean: float) -> None:
    """Loss against the number of tokens to the left."""
    figure, axes = _figure("Does the model use its context?")
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, linewidth=0.8, alpha=0.35)
    width = max(1, len(losses) // 16)
    middle = np.arange(len(losses) - width + 1) + (width + 1) / 2
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    axes.plot(middle, smooth, color=BLUE, linewidth=1.6, label=f"mean of {width} positions")
    axes.axhline(mean, color=GREY, linestyle="--", linewidth=1, label=f"mean of the whole text, {mean:.3f}")
    axes.set_xlabel("tokens to the left")
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False)
    figure.savefig(path)


def window_losses(path: Path, losses: NDArray[Any], width: int) -> None:
    """Histogram of the mean losses of successive pieces of text."""
    figure, axes = _figure("How evenly does it predict the text?")
    axes.hist(losses, bins=min(60, max(5, len(losses) // 4)), color=BLUE)
    for share, colour in ((50, GREY), (90, ORANGE)):
        value = float(np.percentile(losses, share))
        axes.axvline(value, color=colour, linestyle="--", linewidth=1, label=f"{share}%: {value:.3f}")
    axes.set_xlabel(f"mean loss of {width} tokens (nats per token)")
    axes.set_ylabel("pieces of text")
    axes.legend(frameon=False)
    figure.savefig(path)


def bars(
    path: Path,
    title: str,
    names: Sequence[str],
    panels: Sequence[tuple[str, Sequence[float]]],
    *,
    logarithmic: Sequence[str] = (),
) -> None:
    """One horizontal bar chart a panel, side by side, with the names on the left; NaN leaves a bar out.

    The panels named in `logarithmic` begin below their least value instead of at 0, and say so.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 2.6 * len(panels), 1.4 + 0.42 * len(names)), dpi=120, layout="constrained")
    figure.suptitle(title)
    rows = range(len(names))
    for index, (label, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        if label in logarithmic:
            axes.set_xscale("log")
            axes.minorticks_off()
        drawn = axes.barh(rows, np.nan_to_num(np.asarray(values, dtype=float)), color=BLUE)
        axes.bar_label(drawn, [_short(value) for value in values], padding=3, fontsize=8)
        axes.set_yticks(rows, names if index == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.set_title(f"{label} (log scale)" if label in logarithmic else label, fontsize=10)
        axes.set_xticks([])
        axes.margins(x=0.28)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path)


def curves(
    path: Path,
    title: str,
    xlabel: str,
    ylabel: str,
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    inches: tuple[float, float] = (7, 3.8),
) -> None:
    """Named curves of (x, y) points over one another. Fewer inches make the letters larger."""
    figure, axes = _figure(title, inches)
    for name, points in series:
        axes.plot([x for x, _ in points], [y for _, y in points], linewidth=1.4, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    figure.savefig(path)


def points(
    path: Path, title: str, xlabel: str, ylabel: str, named: Sequence[tuple[str, float, float]]
) -> None:
    """Named points (name, x, y); x is drawn on a logarithmic scale."""
    figure, axes = _figure(title)
    for name, x, y in named:
        axes.scatter([x], [y], label=f"{name} ({_short(x)})")
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def _figure(title: str, inches: tuple[float, float] = (7, 3.8)) -> tuple[Any, Any]:
    """A figure 840 pixels wide, and its axes."""
    # Figure by itself, not pyplot: no display, no global state, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=840 / inches[0], layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(value: float) -> str:
    if np.isnan(value):
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:#.4g}"
