"""The evaluation report: what was measured as typed data, as JSON for machines and as Markdown for people.

A mean hides the distribution, so every mean loss comes with percentiles over tokens, windows and documents.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from platen.evaluate.measured import DocumentScore, Spread
from platen.evaluate.samples import Sample

_RISE = 1.05


@dataclass(frozen=True)
class Report:
    """One model on one split. Losses are in nats per token."""

    model: str
    split: str
    evaluated_text: str
    """SHA-256 of the split's file."""
    parameters: int
    vocab_size: int
    context: int
    stride: int
    tokens: int
    bytes: int
    documents: int
    loss: float
    perplexity: float
    bits_per_byte: float
    tokens_per_second: float
    token_loss: Spread
    window_loss: Spread
    """Mean losses of successive pieces as long as the context window."""
    document_bits_per_byte: Spread
    hardest: tuple[DocumentScore, ...]
    easiest: tuple[DocumentScore, ...]
    loss_by_position: tuple[float, ...]
    """Entry i: mean loss with i + 1 tokens to the left."""
    samples: tuple[Sample, ...]
    temperature: float
    seed: int
    further: dict[str, float]
    """Metrics that packages add, by name."""
    schema_version: int = 1

    def best_context(self) -> int | None:
        """The context beyond which the model gets worse by 5% and more, or None when it does not.

        That happens to a model trained on sequences shorter than its context window. Quarters of the
        window are compared, because single positions are too noisy on a small text.
        """
        quarter = len(self.loss_by_position) // 4
        if quarter < 8:
            return None
        means = [float(np.mean(self.loss_by_position[i * quarter : (i + 1) * quarter])) for i in range(4)]
        best = int(np.argmin(means))
        return (best + 1) * quarter if means[-1] > _RISE * means[best] else None

    def write(self, out: Path) -> None:
        """Write `report.json` and `report.md`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (out / "report.json").write_text(text, encoding="utf-8")
        (out / "report.md").write_text(_markdown(self), encoding="utf-8")


def _markdown(r: Report) -> str:
    spreads = [
        ("loss of a token", r.token_loss),
        (f"mean loss of {r.context} tokens", r.window_loss),
    ]
    if r.documents > 1:
        spreads.append(("bits per byte of a document", r.document_bits_per_byte))
    lines = [
        f"# Evaluation of {r.model}",
        "",
        f"Text: the whole {r.split} split (documents: {r.documents:,}, bytes: {r.bytes:,}, tokens: "
        f"{r.tokens:,}). Every token is scored once, in a window of {r.context} tokens that "
        f"moves by {r.stride}, so with at least {r.context - r.stride} tokens to its left where the text has "
        "them.",
        "",
        "| measure | value |",
        "| --- | ---: |",
        f"| bits per byte | {r.bits_per_byte:.4f} |",
        f"| perplexity per token | {r.perplexity:.2f} (a blind guess: {r.vocab_size:,}) |",
        f"| loss, nats per token | {r.loss:.4f} (a blind guess: {math.log(r.vocab_size):.4f}) |",
        f"| parameters | {r.parameters:,} |",
        f"| tokens scored per second | {r.tokens_per_second:,.0f} |",
        *(f"| {_cell(name)} | {value:,.5g} |" for name, value in r.further.items()),
        "",
        "| spread | 5% | median | 90% | 99% | of |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {s.p05:.3f} | {s.p50:.3f} | {s.p90:.3f} | {s.p99:.3f} | {s.count:,} |"
            for name, s in spreads
        ),
        "",
        "![Distribution of losses](window_losses.png)",
        "",
        "![Loss by position](loss_by_position.png)",
        "",
    ]
    best = r.best_context()
    if best is not None:
        lines += [
            f"The model predicts worse beyond about {best} tokens of context: it was trained on shorter "
            "sequences than its context window. Raise `train.sequence_length`, or lower "
            "`model.max_position_embeddings`.",
            "",
        ]
    if r.hardest:
        lines += ["| document | bits per byte | bytes |", "| --- | ---: | ---: |"]
        for kind, scores in (("hardest", r.hardest), ("easiest", r.easiest)):
            lines += [f"| {kind}: {_cell(s.id)} | {s.bits_per_byte:.3f} | {s.bytes:,} |" for s in scores]
        lines.append("")
    if r.samples:
        lines += [f"## Samples (temperature {r.temperature:g}, seed {r.seed})", ""]
    for sample in r.samples:
        ending = "" if sample.finish_reason == "length" else " The model ended the text itself."
        lines += [
            f"Prompt {json.dumps(sample.prompt, ensure_ascii=False)}, {sample.tokens} tokens.{ending}",
            "",
        ]
        lines += [f"    {line}" for line in sample.text.splitlines()]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
