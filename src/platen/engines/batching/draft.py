"""Guesses of how a text goes on, so that the model checks several tokens in one step instead of writing one.

Speculative decoding (Leviathan et al. and Chen et al., both 2023) with drafts that cost next to nothing: what
followed the same words earlier in the text (prompt lookup, Saxena 2023), or else most often in a corpus. Such
a draft is certain of what it proposes, so their rule to accept a token with probability p(token) and else
draw from what is left of p is the same as to draw from p with the number that the position would have been
drawn with anyway, and to go on while the drawn token is the proposed one. So a text is the same with and
without a draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from platen.engines.batching.draft_ngrams import Continuations


@dataclass(frozen=True)
class DraftOptions:
    """`tokens` are proposed at most for a text in a step, after its last `match` tokens were found in it.

    Where they were not, it is what `ngram` knows of how the corpus' texts go on.
    Nothing is proposed while a step would then compute more than `step_tokens` tokens of all texts.
    """

    tokens: int = 8
    match: int = 3
    step_tokens: int = 16
    ngram: Continuations | None = None


class Draft:
    """Proposes the next tokens of one text, and fewer after it was wrong."""

    def __init__(self, options: DraftOptions) -> None:
        self._options = options
        self._lookup = PromptLookup(options.match)
        self._most = options.tokens

    def propose(self, tokens: Sequence[int], room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may follow `tokens`, which begin with those it was asked about before."""
        if room <= 0:
            return ()
        most, ngram = min(room, self._most), self._options.ngram
        found = self._lookup.after(tokens, most)
        return ngram.after(tokens, most) if ngram is not None and not found else found

    def record_acceptance(self, proposed: int, right: int) -> None:
        """Propose as many as were right, and twice as many when all were."""
        most = 2 * right if right == proposed else right
        self._most = max(1, min(most, self._options.tokens))


class PromptLookup:
    """Finds where the last tokens of a text came before in it, at the last such place."""

    def __init__(self, match: int) -> None:
        self._match = match
        self._after: dict[tuple[int, ...], int] = {}
        self._known = match
        """Where the first token is that no entry leads to yet."""

    def after(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that followed there; what reaches the text's end is taken to repeat itself."""
        for at in range(self._known, len(tokens)):
            self._after[tuple(tokens[at - self._match : at])] = at
        self._known = max(self._known, len(tokens))
        found = self._after.get(tuple(tokens[-self._match :]))
        if found is None:
            return ()
        period = len(tokens) - found
        return tuple(tokens[found + index % period] for index in range(most))
