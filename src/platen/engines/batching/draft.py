"""Draft tokens: what probably comes next, so that the model checks several tokens in one step.

Speculative decoding (Leviathan et al. and Chen et al., both 2023) with drafts that cost almost nothing: what
followed the same tokens earlier in the sequence (prompt lookup, Saxena 2023), or most often in a corpus. Such
a draft gives its token probability 1. Their rule, to accept a token with probability p(token) and else to
draw from the rest of p, is then the same as to draw from p with the position's own random number and to go on
while the draw is the draft token. So a sequence is the same with and without drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from platen.engines.batching.draft_ngrams import Continuations


@dataclass(frozen=True)
class DraftOptions:
    """At most `tokens` are proposed for a sequence in a step, where its last `match` tokens occur earlier in
    it.

    Elsewhere `ngram` proposes what follows in its corpus. Nothing is proposed while a step would then compute
    more than `step_tokens` tokens of the whole batch.
    """

    tokens: int = 8
    match: int = 3
    step_tokens: int = 16
    ngram: Continuations | None = None


class Draft:
    """Proposes the next tokens of one sequence, and fewer after a rejection."""

    def __init__(self, options: DraftOptions) -> None:
        self._options = options
        self._lookup = PromptLookup(options.match)
        self._most = options.tokens

    def propose(self, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` tokens that may follow `tokens`, which extend those of the call before."""
        if limit <= 0:
            return ()
        most, ngram = min(limit, self._most), self._options.ngram
        found = self._lookup.after(tokens, most)
        return ngram.after(tokens, most) if ngram is not None and not found else found

    def record_acceptance(self, proposed: int, right: int) -> None:
        """Propose as many as were accepted, and twice as many when all were."""
        most = 2 * right if right == proposed else right
        self._most = max(1, min(most, self._options.tokens))


class PromptLookup:
    """Finds the latest earlier occurrence of a sequence's last tokens."""

    def __init__(self, match: int) -> None:
        self._match = match
        self._after: dict[tuple[int, ...], int] = {}
        self._known = match
        """Index of the first token that no entry leads to yet."""

    def after(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that followed there; at the sequence's end they are taken to repeat."""
        for at in range(self._known, len(tokens)):
            self._after[tuple(tokens[at - self._match : at])] = at
        self._known = max(self._known, len(tokens))
        found = self._after.get(tuple(tokens[-self._match :]))
        if found is None:
            return ()
        period = len(tokens) - found
        return tuple(tokens[found + index % period] for index in range(most))
