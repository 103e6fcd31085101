"""Chooses the next token of every sequence in a batch from its logits.

A row's choice depends on that row alone: its logits, its parameters and one uniform number from its own
seeded stream. So a seeded request picks the same tokens alone and in a full batch. Probabilities are
computed in float64, which costs little beside the model and keeps cumulative sums exact enough for large
vocabularies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from platen.engines.protocol import SamplingParams


class RandomStream:
    """One request's random numbers: a fixed sequence for a seed, a fresh one without."""

    def __init__(self, seed: int | None) -> None:
        self._generator = np.random.Generator(np.random.PCG64(None if seed is None else seed % 2**64))

    def uniform(self) -> float:
        """The next number in [0, 1)."""
        return float(self._generator.random())


def filtered_distribution(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Next-token probabilities after temperature, then top-k, then top-p (Holtzman et al., 2020).

    `logits` is (B, V); the parameters are (B,), with `temperature` > 0, `top_k` 0 and `top_p` 1 meaning
    off. Top-k keeps exactly k tokens; top-p keeps the smallest set of likeliest tokens whose mass, out of
    what top-k left, reaches p, and at least one. Among equals the lower token id comes first.

    Returns probabilities (B, V) in descending order, zero where filtered and summing to 1, and the token
    ids (B, V) that they belong to.
    """
    scaled = _scaled(logits, temperature)
    ordered, token_ids = torch.sort(scaled, dim=-1, descending=True, stable=True)
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    outside_k = (top_k[:, None] > 0) & (ranks >= top_k[:, None])
    probabilities = torch.softmax(ordered.masked_fill(outside_k, -torch.inf), dim=-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    outside_p = (top_p.double()[:, None] < 1) & (mass_before >= top_p.double()[:, None])
    outside_p[:, 0] = False
    probabilities = probabilities.masked_fill(outside_p, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True), token_ids


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The index (B,) at which each row's cumulative probability first exceeds its uniform number.

    `probabilities` is (B, V) with rows summing to 1, `uniforms` (B,) in [0, 1). An index of zero
    probability is never returned.
    """
    cumulative = probabilities.cumsum(-1)
    # Rounding may leave the last sum a little off 1, so the number is taken as a share of that sum.
    threshold = uniforms.double() * cumulative[:, -1]
    index = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
    last_possible = (probabilities > 0).long().cumsum(-1).argmax(-1)
    return torch.minimum(index, last_possible)


def sample(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> list[int]:
    """Choose one token id for each row of `logits` (B, V).

    Temperature 0 takes the likeliest token (the lowest id among equals). `uniforms` has one number per
    row; greedy rows ignore theirs. Rows without top-k and top-p skip the sort that those two need.
    """
    chosen = torch.empty(len(params), dtype=torch.long, device=logits.device)
    greedy = [row for row, p in enumerate(params) if p.temperature == 0]
    plain = [row for row, p in enumerate(params) if p.temperature > 0 and not _is_filtered(p)]
    filtered = [row for row, p in enumerate(params) if p.temperature > 0 and _is_filtered(p)]
    numbers = torch.tensor(list(uniforms), dtype=torch.float64, device=logits.device)
    if greedy:
        chosen[greedy] = logits[greedy].argmax(-1)
    if plain:
        temperature = _column(logits, [params[row].temperature for row in plain])
        probabilities = torch.softmax(_scaled(logits[plain], temperature), dim=-1)
        chosen[plain] = inverse_cdf(probabilities, numbers[plain])
    if filtered:
        rows = [params[row] for row in filtered]
        probabilities, token_ids = filtered_distribution(
            logits[filtered],
            _column(logits, [p.temperature for p in rows]),
            _column(logits, [p.top_k for p in rows]).long(),
            _column(logits, [p.top_p for p in rows]),
        )
        index = inverse_cdf(probabilities, numbers[filtered])
        chosen[filtered] = token_ids.gather(1, index[:, None])[:, 0]
    return [int(token_id) for token_id in chosen.tolist()]


def _scaled(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits (B, V) over temperature (B,) in float64, the largest of each row at 0.

    So even the smallest temperature leaves numbers: zero, and others down to minus infinity.
    """
    wide = logits.double()
    return (wide - wide.amax(-1, keepdim=True)) / temperature.double()[:, None]


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


@dataclass(frozen=True)
class LogprobRow:
    """A chosen token's log-probability and the likeliest alternatives as (token id, log-probability)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs_of(logits: Tensor, token_ids: Sequence[int], top: int) -> list[LogprobRow]:
    """Log-probabilities (natural log) under the model itself, before temperature and filters.

    `logits` is (N, V), `token_ids` has N entries; `top` alternatives are given per row, at most V.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    index = torch.tensor(list(token_ids), device=logits.device)[:, None]
    chosen = logprobs.gather(1, index)[:, 0].tolist()
    best = torch.topk(logprobs, min(top, logits.shape[-1]), dim=-1)
    best_ids, best_values = best.indices.tolist(), best.values.tolist()
    return [
        LogprobRow(token_id, chosen[row], tuple(zip(best_ids[row], best_values[row], strict=True)))
        for row, token_id in enumerate(token_ids)
    ]
