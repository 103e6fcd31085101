"""The metrics of an evaluation: each with its name, which way is better, its unit and how it is taken.

A package adds one by an entry point in the group `platen.metrics` that leads to a Metric; the project file
names it under `evaluate.metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.core.metrics import Metric
from platen.core.plugins import Catalogue

if TYPE_CHECKING:
    from platen.evaluate.measured import Measured

NATS = "nats per token"
OWN: tuple[Metric[Measured], ...] = (
    Metric("bits_per_byte", "lower", "bits per byte", lambda m: m.score.bits_per_byte),
    Metric("perplexity", "lower", "per token", lambda m: m.score.perplexity),
    Metric("loss", "lower", NATS, lambda m: m.score.loss),
    Metric("loss_p50", "lower", NATS, lambda m: m.token_loss.p50),
    Metric("loss_p90", "lower", NATS, lambda m: m.token_loss.p90),
    Metric("loss_p99", "lower", NATS, lambda m: m.token_loss.p99),
    Metric("document_bits_per_byte_p90", "lower", "bits per byte", lambda m: m.document_bits_per_byte.p90),
    Metric("tokens_per_second", "higher", "tokens/s", lambda m: m.score.tokens_per_second),
    Metric("parameters", None, "parameters", lambda m: float(m.parameters)),
)
"""Those of every report."""

METRICS: Catalogue[Metric[Measured]] = Catalogue("platen.metrics", OWN)
