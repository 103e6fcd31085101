"""Chooses the next token of every sequence in a batch from its logits.

A row's choice depends on that row alone: its logits, its parameters, its own tokens and one uniform number
from its own seeded stream. So a seeded request picks the same tokens alone and in a full batch.
Probabilities are computed in float64, which costs little beside the model and keeps cumulative sums exact
enough for large vocabularies. NumPy alone: a server whose engine is not PyTorch never imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from platen.engines.batching.grammar import Matcher
from platen.engines.protocol import SamplingParams

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

SHORTLIST = 1024
"""Likeliest tokens that filters look at first; where they don't suffice the whole vocabulary is sorted."""


class RandomStream:
    """One request's random numbers: a fixed sequence for a seed, a fresh one without."""

    def __init__(self, seed: int | None) -> None:
        self._generator = np.random.Generator(np.random.PCG64(None if seed is None else seed % 2**64))

    def uniform(self) -> float:
        """The next number in [0, 1)."""
        return float(self._generator.random())


@dataclass(frozen=True)
class Row:
    """What one row's choice depends on beside its logits.

    `counts` has how often each token was generated so far, `prompt` has the prompt's when they count for a
    penalty, `banned` tokens can't be chosen, and `matcher` says what its grammar allows.
    """

    params: SamplingParams
    uniform: float
    counts: Mapping[int, int] = field(default_factory=dict)
    prompt: Sequence[int] = ()
    banned: Sequence[int] = ()
    matcher: Matcher | None = None

    @property
    def adjusted(self) -> bool:
        p = self.params
        penalised = p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0
        return bool(penalised or p.logit_bias or self.banned or self.matcher is not None)


def adjusted(logits: Floats, rows: Sequence[Row]) -> Floats:
    """Logits (B, V) after bias, penalties and prohibitions, in this order; other rows are unchanged.

    - `logit_bias` adds to the logits of its tokens.
    - `repetition_penalty` r (Keskar et al., "CTRL", 2019): of every token in prompt or text, a positive
      logit is divided by r, a negative one multiplied.
    - `frequency_penalty` times a token's count in the text, and `presence_penalty` once if it is in the
      text, are subtracted (OpenAI's definition).
    - banned tokens, and those that the grammar does not allow, get minus infinity.
    """
    if not any(row.adjusted for row in rows):
        return logits
    result = logits.copy()
    for index, row in enumerate(rows):
        if row.adjusted:
            _adjust(result[index], row)
    return result


def _adjust(logits: Floats, row: Row) -> None:
    """Change one row (V,) in place: a handful of entries, or one masked fill."""
    params = row.params
    for token_id, bias in params.logit_bias:
        logits[token_id] += bias
    if params.repetition_penalty != 1:
        seen = np.array(sorted({*row.prompt, *row.counts}), dtype=np.int64)
        old, penalty = logits[seen], params.repetition_penalty
        logits[seen] = np.where(old > 0, old / penalty, old * penalty)
    if row.counts and (params.presence_penalty or params.frequency_penalty):
        counts = np.array(list(row.counts.values()), dtype=logits.dtype)
        logits[list(row.counts)] -= params.frequency_penalty * counts + params.presence_penalty
    if row.banned:
        logits[list(row.banned)] = -np.inf
    if row.matcher is not None:
        logits[~row.matcher.allowed()] = -np.inf


@dataclass(frozen=True)
class Filters:
    """The filters' parameters as columns (B,), float64; see `filtered_distribution`."""

    top_k: Doubles
    top_p: Doubles
    min_p: Doubles
    typical_p: Doubles

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> Filters:
        return cls(
            np.array([p.top_k for p in params], dtype=np.float64),
            np.array([p.top_p for p in params], dtype=np.float64),
            np.array([p.min_p for p in params], dtype=np.float64),
            np.array([p.typical_p for p in params], dtype=np.float64),
        )

    def rows(self, index: Ids) -> Filters:
        return Filters(self.top_k[index], self.top_p[index], self.min_p[index], self.typical_p[index])


def filtered_distribution(
    logits: Floats, temperature: Doubles, filters: Filters, *, shortlist: int = SHORTLIST
) -> tuple[Doubles, Ids]:
    """Next-token probabilities after temperature, then top-k, top-p, min-p and typical-p, in this order.

    `logits` is (B, V), `temperature` (B,) > 0. Each filter acts on what the ones before it left,
    renormalised:

    - top-k keeps exactly the k likeliest (0: off).
    - top-p (Holtzman et al., 2020) keeps the smallest set of likeliest tokens whose mass reaches p, and at
      least one (1: off).
    - min-p (Nguyen et al., 2024) drops tokens less likely than p times the likeliest (0: off).
    - typical-p (Meister et al., 2023) keeps the smallest set of tokens whose mass reaches p, those first
      whose surprise is nearest to the distribution's entropy, and at least one (1: off).

    Among equals the lower token id comes first. Returns probabilities (B, W), zero where filtered and
    summing to 1, and the token ids (B, W) that they belong to; W is the vocabulary or a shortlist of it.
    """
    scaled = _scaled(logits, temperature)
    total = np.log(np.exp(scaled).sum(-1))  # the largest is 0
    if scaled.shape[-1] > 4 * shortlist:
        ordered, token_ids = _ordered(scaled, shortlist)
        probabilities, enough = _filtered(ordered, total, filters, whole=False)
        if enough.all():
            return probabilities, token_ids
        # Each row goes the way it would go alone, so that its sums are the same in any batch.
        short = np.nonzero(~enough)[0]
        more, more_ids = _whole(scaled[short], total[short], filters.rows(short))
        width = ((0, 0), (0, scaled.shape[-1] - shortlist))
        probabilities, token_ids = np.pad(probabilities, width), np.pad(token_ids, width)
        probabilities[short], token_ids[short] = more, more_ids
        return probabilities, token_ids
    return _whole(scaled, total, filters)


def _whole(scaled: Doubles, total: Doubles, filters: Filters) -> tuple[Doubles, Ids]:
    token_ids = np.argsort(-scaled, axis=-1, kind="stable")
    ordered = np.take_along_axis(scaled, token_ids, -1)
    return _filtered(ordered, total, filters, whole=True)[0], token_ids


def _ordered(scaled: Doubles, width: int) -> tuple[Doubles, Ids]:
    """The `width` largest of each row, descending, the lower id first among equals."""
    largest = scaled.shape[-1] - width
    ids = np.sort(np.argpartition(scaled, largest, axis=-1)[:, largest:], axis=-1)
    values = np.take_along_axis(scaled, ids, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    return np.take_along_axis(values, order, -1), np.take_along_axis(ids, order, -1)


def _filtered(
    ordered: Doubles, total: Doubles, filters: Filters, *, whole: bool
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Probabilities (B, W) of descending scaled logits, and whether these W were enough to know them.

    They are when the filters cut before the end of the list, where no equal follows beyond it.
    """
    ranks = np.arange(ordered.shape[-1])
    kept = (filters.top_k[:, None] == 0) | (ranks < filters.top_k[:, None])
    probabilities = np.where(kept, np.exp(ordered - total[:, None]), 0.0)
    mass = np.where(filters.top_k > 0, probabilities.sum(-1), 1.0)
    before = probabilities.cumsum(-1) - probabilities
    top_p = filters.top_p[:, None]
    kept &= (top_p == 1) | (before < top_p * mass[:, None])
    kept &= probabilities >= filters.min_p[:, None] * probabilities[:, :1]
    kept[:, 0] = True
    probabilities = np.where(kept, probabilities, 0.0)
    last = kept.sum(-1, keepdims=True) - 1
    enough = (last[:, 0] < ordered.shape[-1] - 1) & (
        np.take_along_axis(ordered, last, -1)[:, 0] > ordered[:, -1]
    )
    enough &= filters.top_k <= ordered.shape[-1]  # or the mass that top-k left is not known
    if whole:
        enough = np.ones_like(enough)
    if (filters.typical_p < 1).any():
        probabilities = _typical(probabilities, filters.typical_p)
    return probabilities / probabilities.sum(-1, keepdims=True), enough


def _typical(probabilities: Doubles, typical_p: Doubles) -> Doubles:
    normal = probabilities / probabilities.sum(-1, keepdims=True)
    surprise = np.full_like(normal, np.inf)
    np.negative(np.log(normal, where=normal > 0, out=surprise), where=normal > 0, out=surprise)
    entropy = np.multiply(normal, surprise, where=normal > 0, out=np.zeros_like(normal)).sum(
        -1, keepdims=True
    )
    order = np.argsort(np.abs(surprise - entropy), axis=-1, kind="stable")
    sorted_normal = np.take_along_axis(normal, order, -1)
    before = sorted_normal.cumsum(-1) - sorted_normal
    drop = before >= typical_p[:, None]
    drop[:, 0] = False
    drop &= typical_p[:, None] < 1
    dropped = np.zeros_like(drop)
    np.put_along_axis(dropped, order, drop, -1)
    return np.where(dropped, 0.0, probabilities)


def inverse_cdf(probabilities: Doubles, uniforms: Doubles) -> Ids:
    """The index (B,) at which each row's cumulative probability first exceeds its uniform number.

    `probabilities` is (B, V) with rows summing to 1, `uniforms` (B,) in [0, 1). An index of zero
    probability is never returned.
    """
    found = np.empty(len(uniforms), dtype=np.int64)
    for row, cumulative in enumerate(probabilities.cumsum(-1)):
        # Rounding may leave the last sum a little off 1, so the number is taken as a share of that sum.
        index = np.searchsorted(cumulative, uniforms[row] * cumulative[-1], side="right")
        if index == len(cumulative) or not probabilities[row, index]:
            index = np.flatnonzero(probabilities[row])[-1]
        found[row] = index
    return found


def sample(logits: Floats, rows: Sequence[Row]) -> list[int]:
    """Choose one token id for each row of `logits` (B, V).

    Temperature 0 takes the likeliest token (the lowest id among equals). Rows without filters skip the sort
    that those need.
    """
    logits = adjusted(logits, rows)
    if all(row.params.temperature == 0 for row in rows):
        return [int(token_id) for token_id in logits.argmax(-1)]
    chosen = np.empty(len(rows), dtype=np.int64)
    greedy = [index for index, row in enumerate(rows) if row.params.temperature == 0]
    plain = [i for i, row in enumerate(rows) if row.params.temperature > 0 and not _is_filtered(row.params)]
    filtered = [i for i, row in enumerate(rows) if row.params.temperature > 0 and _is_filtered(row.params)]
    numbers = np.array([row.uniform for row in rows])
    temperature = np.array([row.params.temperature for row in rows], dtype=np.float64)
    if greedy:
        chosen[greedy] = logits[greedy].argmax(-1)
    if plain:
        weights = np.exp(_scaled(logits[plain], temperature[plain]))
        chosen[plain] = inverse_cdf(weights / weights.sum(-1, keepdims=True), numbers[plain])
    if filtered:
        filters = Filters.of([rows[index].params for index in filtered])
        probabilities, token_ids = filtered_distribution(logits[filtered], temperature[filtered], filters)
        index = inverse_cdf(probabilities, numbers[filtered])
        chosen[filtered] = np.take_along_axis(token_ids, index[:, None], -1)[:, 0]
    return [int(token_id) for token_id in chosen]


def _scaled(logits: Floats, temperature: Doubles) -> Doubles:
    """Logits (B, V) over temperature (B,) in float64, the largest of each row at 0.

    So even the smallest temperature leaves numbers: zero, and others down to minus infinity.
    """
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.asarray((wide - wide.max(-1, keepdims=True)) / temperature[:, None])


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0 or params.typical_p < 1


@dataclass(frozen=True)
class LogprobRow:
    """A chosen token's log-probability and the likeliest alternatives as (token id, log-probability)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs_of(logits: Floats, token_ids: Sequence[int], top: int) -> list[LogprobRow]:
    """Log-probabilities (natural log) under the model itself, before temperature and filters.

    `logits` is (N, V), `token_ids` has N entries; `top` alternatives are given per row, at most V.
    """
    top = min(top, logits.shape[-1])
    # A row at a time stays in the processor's cache.
    return [_logprobs(row, token_id, top) for row, token_id in zip(logits, token_ids, strict=True)]


def _logprobs(logits: Floats, token_id: int, top: int) -> LogprobRow:
    largest = logits.max()
    logprobs = logits - (largest + np.log(np.exp(logits - largest).sum(dtype=np.float64))).astype(
        logits.dtype
    )
    best: Sequence[int] = ()
    if top:
        likeliest = np.argpartition(logprobs, -top)[-top:]
        best = [int(i) for i in likeliest[np.argsort(-logprobs[likeliest], kind="stable")]]
    return LogprobRow(token_id, float(logprobs[token_id]), tuple((i, float(logprobs[i])) for i in best))
