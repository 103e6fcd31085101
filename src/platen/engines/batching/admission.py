"""What every engine asks of a request before it takes it."""

from __future__ import annotations

from platen.engines.protocol import GenerationRequest


def allowance(request: GenerationRequest, *, context_window: int, vocab_size: int) -> int:
    """How many tokens a request may get. Raises ValueError when it names tokens that can't be used."""
    length = len(request.prompt_ids)
    asked = request.sampling.max_tokens
    if length == 0:
        raise ValueError("the prompt has no tokens")
    room = context_window - length
    if room < 0 or (room == 0 and asked != 0):
        raise ValueError(f"the prompt has {length} tokens; the context window is {context_window}")
    if any(not 0 <= token_id < vocab_size for token_id in request.prompt_ids):
        raise ValueError(f"a prompt token is outside the vocabulary of {vocab_size}")
    if any(not 0 <= token_id < vocab_size for token_id, _ in request.sampling.logit_bias):
        raise ValueError(f"logit_bias has a token outside the vocabulary of {vocab_size}")
    if any(not 0 <= token_id < vocab_size for token_id in request.sampling.stop_token_ids):
        raise ValueError(f"stop_token_ids has a token outside the vocabulary of {vocab_size}")
    return room if asked is None else min(asked, room)
