"""What every engine asks of a request before it takes it."""

from __future__ import annotations

from platen.engines.protocol import GenerationRequest, RequestRefused


def allowance(request: GenerationRequest, *, context_window: int, vocab_size: int) -> int:
    """How many tokens a request may get. Raises RequestRefused when it does not fit, or
    names tokens that can't be used."""
    length = len(request.prompt_ids)
    asked = request.sampling.max_tokens
    if length == 0:
        raise RequestRefused("the prompt has no tokens", param="prompt")
    room = context_window - length
    if room < 0 or (room == 0 and asked != 0):
        raise RequestRefused(
            f"the prompt has {length} tokens; the context window is {context_window}",
            param="prompt",
            code="context_length_exceeded",
        )
    if any(not 0 <= token_id < vocab_size for token_id in request.prompt_ids):
        raise RequestRefused(f"a prompt token is outside the vocabulary of {vocab_size}", param="prompt")
    if any(not 0 <= token_id < vocab_size for token_id, _ in request.sampling.logit_bias):
        raise RequestRefused(
            f"logit_bias has a token outside the vocabulary of {vocab_size}", param="logit_bias"
        )
    if any(not 0 <= token_id < vocab_size for token_id in request.sampling.stop_token_ids):
        raise RequestRefused(
            f"stop_token_ids has a token outside the vocabulary of {vocab_size}", param="stop_token_ids"
        )
    return room if asked is None else min(asked, room)
