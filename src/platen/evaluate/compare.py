"""The stage `compare`: variants that were trained and evaluated alike, in one table and three plots.

The order is the project file's, so that a ladder of variants reads as one; each row also says how much it
changed against the row above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core import plots
from platen.core.artifacts import Artifact
from platen.core.stage import StageContext, StageResult
from platen.evaluate.config import CompareConfig
from platen.models.training_history import TrainingRecord, read_curves


@dataclass(frozen=True)
class Row:
    """One variant. `loss` is nats per token on the held-out text; None where a figure was not measured."""

    name: str
    architecture: str
    parameters: int
    train_loss: float | None
    loss: float
    bits_per_byte: float
    train_tokens_per_second: float | None
    tokens_per_second: float
    tokens_seen: float | None
    minutes: float | None


def compare(ctx: StageContext[CompareConfig]) -> StageResult:
    """Put `train@NAME` and `evaluate@NAME` of every variant beside one another.

    Writes `comparison.json`, `comparison.md`, `comparison.png`, `quality_by_size.png` and, where training
    kept its history, `curves.png`.
    """
    names = ctx.config.variants
    rows = [_row(name, ctx.inputs[f"train@{name}"], ctx.inputs[f"evaluate@{name}"]) for name in names]
    table = {"schema_version": 1, "variants": [asdict(row) for row in rows]}
    (ctx.out / "comparison.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    histories = [(name, _validation_losses(ctx.inputs[f"train@{name}"].path)) for name in names]
    drawn = [(name, points) for name, points in histories if points]
    if drawn:
        plots.curves(
            ctx.out / "curves.png",
            "Validation loss while training",
            "optimizer steps",
            "loss (nats per token)",
            drawn,
        )
    _draw(ctx.out, rows)
    (ctx.out / "comparison.md").write_text(_markdown(rows, bool(drawn)), encoding="utf-8")
    best = min(rows, key=lambda row: row.bits_per_byte)
    for row in rows:
        ctx.progress.say(
            f"{row.name}: {row.parameters:,} parameters, loss {row.loss:.3f}, "
            f"{row.bits_per_byte:.3f} bits per byte"
        )
    return StageResult(
        metrics={f"bits_per_byte.{row.name}": row.bits_per_byte for row in rows}, notes={"best": best.name}
    )


def _row(name: str, train: Artifact, evaluation: Artifact) -> Row:
    trained, measured = train.manifest.metrics, evaluation.manifest.metrics
    seconds = trained.get("seconds")
    return Row(
        name=name,
        architecture=_architecture(train),
        parameters=int(measured["parameters"]),
        train_loss=trained.get("train_loss"),
        loss=measured["loss"],
        bits_per_byte=measured["bits_per_byte"],
        train_tokens_per_second=trained.get("tokens_per_second"),
        tokens_per_second=measured["tokens_per_second"],
        tokens_seen=trained.get("tokens"),
        minutes=None if seconds is None else seconds / 60,
    )


def _architecture(train: Artifact) -> str:
    """That of the project file, or the word for a network that came with `base`."""
    shape = train.manifest.config["model"]
    return "base" if shape is None else str(shape["architecture"])


def _validation_losses(train: Path) -> list[tuple[int, float]]:
    """(step, validation loss) as training noted them, oldest first; empty without a record."""
    path = TrainingRecord(train).history
    return read_curves(path).validation if path.is_file() else []


def _draw(out: Path, rows: Sequence[Row]) -> None:
    speed = [math.nan if r.train_tokens_per_second is None else r.train_tokens_per_second for r in rows]
    plots.bars(
        out / "comparison.png",
        "What each variant buys",
        [row.name for row in rows],
        [
            ("parameters", [row.parameters for row in rows]),
            ("loss (nats per token)", [row.loss for row in rows]),
            ("bits per byte", [row.bits_per_byte for row in rows]),
            ("training tokens/s", speed),
        ],
    )
    plots.points(
        out / "quality_by_size.png",
        "Quality against size",
        "parameters",
        "bits per byte",
        [(row.name, row.parameters, row.bits_per_byte) for row in rows],
    )


def _markdown(rows: Sequence[Row], curves: bool) -> str:
    lines = [
        "# Comparison",
        "",
        "All variants read the same training tokens and were scored on the same held-out text. Change: bits "
        "per byte against the row above; less is better.",
        "",
        "| variant | architecture | parameters | training loss | held-out loss | bits per byte | change | "
        "training tokens/s | scoring tokens/s | tokens seen | minutes |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    above: Row | None = None
    for row in rows:
        change = "" if above is None else f"{row.bits_per_byte - above.bits_per_byte:+.3f}"
        cells = (
            row.name,
            row.architecture,
            f"{row.parameters:,}",
            _cell(row.train_loss, ".3f"),
            f"{row.loss:.3f}",
            f"{row.bits_per_byte:.3f}",
            change,
            _cell(row.train_tokens_per_second, ",.0f"),
            f"{row.tokens_per_second:,.0f}",
            _cell(row.tokens_seen, ",.0f"),
            _cell(row.minutes, ".1f"),
        )
        lines.append(f"| {' | '.join(cells)} |")
        above = row
    images = ["comparison", "quality_by_size", *(["curves"] if curves else [])]
    return "\n".join([*lines, "", *(f"![]({name}.png)\n" for name in images)])


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
