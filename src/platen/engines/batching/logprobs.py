"""Log-probabilities as a request asked for them: with tokens' names, and a prompt's piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats, LogprobRow, logprobs_of
from platen.engines.batching.sequence import Sequence
from platen.engines.protocol import TokenLogprob


class Scores:
    """`token_text` names a single token."""

    def __init__(self, token_text: Callable[[int], str]) -> None:
        self._token_text = token_text
        self._prompts: dict[Sequence, list[LogprobRow]] = {}

    def chosen(self, sequence: Sequence, token_id: int, logits: Floats) -> tuple[TokenLogprob, ...]:
        """Of a new token, chosen from `logits` (1, V); nothing unless the request wants it."""
        wanted = sequence.request.sampling.logprobs
        return () if wanted is None else (self._named(logprobs_of(logits, [token_id], wanted)[0]),)

    def read(self, chunk: Chunk, logits: Floats) -> None:
        """Note those of the prompt's tokens behind a piece's first, from the piece's logits (T, V)."""
        following = chunk.sequence.tokens[chunk.start + 1 : chunk.stop + 1]
        wanted = chunk.sequence.request.prompt_logprobs or 0
        rows = self._prompts.setdefault(chunk.sequence, [])
        rows += logprobs_of(logits[: len(following)], following, wanted)

    def take(self, sequence: Sequence) -> tuple[TokenLogprob | None, ...]:
        """What was noted of a prompt, the first token's None; it is forgotten here."""
        rows = self._prompts.pop(sequence, None)
        return () if rows is None else (None, *(self._named(row) for row in rows))

    def forget(self) -> None:
        self._prompts.clear()

    def _named(self, row: LogprobRow) -> TokenLogprob:
        top = tuple((token_id, self._token_text(token_id), value) for token_id, value in row.top)
        return TokenLogprob(row.token_id, self._token_text(row.token_id), row.logprob, top)
