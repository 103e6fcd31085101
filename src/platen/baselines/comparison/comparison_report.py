"""A comparison as files: `comparison.json`, `comparison.md` and `comparison.png`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from platen.baselines.comparison.run_comparison import ClassifierRow, Comparison, ModelRow
from platen.core import plots


def write_report(comparison: Comparison, out: Path) -> None:
    """Write the three files into a folder, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    raw = {"schema_version": 1, **asdict(comparison)}
    (out / "comparison.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    (out / "comparison.md").write_text(_markdown(comparison), encoding="utf-8")
    models = comparison.models
    plots.bars(
        out / "comparison.png",
        "The ladder on this text",
        [row.name for row in models],
        [
            ("bits per byte", [math.nan if r.bits_per_byte is None else r.bits_per_byte for r in models]),
            ("parameters or n-grams", [row.numbers for row in models]),
            ("training tokens/s", [row.train_tokens_per_second for row in models]),
            ("scoring tokens/s", [row.tokens_per_second for row in models]),
        ],
        logarithmic=("parameters or n-grams", "training tokens/s", "scoring tokens/s"),
    )


def loss_cell(row: ModelRow) -> str:
    """Bits per byte; for a model that holds text impossible, of how many tokens it does."""
    if row.bits_per_byte is None:
        return f"∞ ({row.impossible:.1%} of tokens)"
    return f"{row.bits_per_byte:.3f}"


def name_cell(row: ModelRow | ClassifierRow) -> str:
    """The name, and whether time ended the training."""
    return f"{row.name} (time was up)" if row.cut else row.name


def _markdown(comparison: Comparison) -> str:
    lines = [
        "# The ladder on this text",
        "",
        f"{', '.join(comparison.files)}: {comparison.train_tokens:,} tokens to learn from, "
        f"{comparison.scored_tokens:,} held out ({comparison.scored_bytes:,} bytes), "
        f"{comparison.vocab_size:,} entries in the vocabulary, seed {comparison.seed}.",
        "",
        "| model | bits per byte | parameters or n-grams | bytes | training s | training tokens/s "
        "| scoring tokens/s | steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in comparison.models:
        steps = "" if row.steps is None else f"{row.steps}{' (time was up)' if row.cut else ''}"
        cells = (
            row.name,
            loss_cell(row),
            f"{row.numbers:,}",
            f"{row.size_bytes:,}",
            f"{row.train_seconds:.2f}",
            f"{row.train_tokens_per_second:,.0f}",
            f"{row.tokens_per_second:,.0f}",
            steps,
        )
        lines.append(f"| {' | '.join(cells)} |")
    if comparison.classifiers:
        lines += [
            "",
            "Which file is a passage from?",
            "",
            "| classifier | accuracy | training s | passages/s |",
            "| --- | ---: | ---: | ---: |",
        ]
        for guess in comparison.classifiers:
            lines.append(
                f"| {name_cell(guess)} | {guess.accuracy:.1%} | {guess.train_seconds:.2f} "
                f"| {guess.passages_per_second:,.0f} |"
            )
    return "\n".join(lines) + "\n"
