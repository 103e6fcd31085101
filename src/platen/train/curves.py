"""A run's curves as one picture: loss, learning rate, throughput."""

from __future__ import annotations

from pathlib import Path

from platen.models.training_history import Curves


def draw(curves: Curves, target: Path, *, title: str) -> None:
    """Write a PNG of training and validation loss, learning rate and tokens a second over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, speed = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    figure.suptitle(title, fontsize=11)
    loss.plot(curves.steps, curves.losses, color="#9db8d9", linewidth=0.8, label="training, each step")
    loss.plot(
        curves.steps, smoothed(curves.losses), color="#1f4e8c", linewidth=1.5, label="training, smoothed"
    )
    if curves.validation:
        loss.plot(
            *zip(*curves.validation, strict=True), "o-", color="#c0392b", markersize=3, label="validation"
        )
    loss.set_ylabel("loss (nats per token)")
    loss.legend(frameon=False)
    rate.plot(curves.steps, curves.learning_rates, color="#1f4e8c")
    rate.set_ylabel("learning rate")
    speed.plot(curves.steps, smoothed(curves.tokens_per_second), color="#1f4e8c")
    speed.set_ylabel("tokens per second")
    speed.set_ylim(bottom=0)
    speed.set_xlabel("step")
    for axes in (loss, rate, speed):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110, metadata={"Software": None})


def smoothed(values: list[float], share: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start (as Adam's)."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total = share * total + (1 - share) * value
        weight = share * weight + (1 - share)
        result.append(total / weight)
    return result
