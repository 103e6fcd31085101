"""vLLM's dialect of `/v1/completions`: a request into its JSON, and its stream back into tokens.

Prompts go as token ids and tokens come back as ids (`return_token_ids`), so that text, stop strings and end
of text are ours and the same as with every other engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from platen.engines.protocol import GenerationRequest, RequestRefused
from platen.prompts.structured import Grammar

_TOKEN = "token_id:"
_STRUCTURED = {"json_schema": "json", "regex": "regex", "lark": "grammar"}


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability and the likeliest alternatives (token, logprob), when asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Chunk:
    """One piece of a stream. `prompt` is in the first, when the prompt's log-probabilities were asked for."""

    tokens: tuple[Scored, ...] = ()
    prompt: tuple[Scored, ...] = ()
    finish_reason: str | None = None
    cached_tokens: int | None = None


class VllmRefused(Exception):
    """vLLM answered with an error."""


def request_body(
    request: GenerationRequest, max_tokens: int, end_ids: tuple[int, ...], model: str
) -> dict[str, Any]:
    """The body of the POST. Raises RequestRefused for what vLLM can't do."""
    params = request.sampling
    if params.typical_p != 1:
        raise RequestRefused("the vllm engine has no typical_p", param="typical_p")
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "min_tokens": min(params.min_tokens, max_tokens),
        "ignore_eos": params.ignore_eos,
        "stop_token_ids": sorted(params.ends(end_ids)),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.seed is not None:
        body["seed"] = params.seed if params.seed < 2**63 else params.seed - 2**64
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    wanted = [count for count in (params.logprobs, request.prompt_logprobs) if count is not None]
    if wanted:
        body["logprobs"] = max(wanted)
    # Log-probabilities of a prompt are streamed only with its echo; and only with it may nothing be written.
    if request.prompt_logprobs is not None or max_tokens == 0:
        body["echo"] = True
    if params.grammar is not None:
        body["structured_outputs"] = _structured(params.grammar)
    return body


def _structured(grammar: Grammar) -> dict[str, str]:
    return {_STRUCTURED[grammar.kind]: grammar.text}


def read_chunk(data: bytes, request: GenerationRequest, *, first: bool) -> Chunk:
    """One event of the stream. Raises VllmRefused when it is an error or not in the expected form."""
    try:
        content = json.loads(data)
        if "error" in content:
            raise VllmRefused(error_message(content))
        usage = content.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens")
        if not content["choices"]:
            return Chunk(cached_tokens=cached)
        choice = content["choices"][0]
        ids = [int(token) for token in choice.get("token_ids") or ()]
        scores = _scores(choice.get("logprobs"))
        echoes = first and request.prompt_logprobs is not None
        length = len(request.prompt_ids) if echoes else 0
        written = scores[length:] or [Scored(token) for token in ids]
        return Chunk(tuple(written), tuple(scores[:length]), choice.get("finish_reason"), cached)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise VllmRefused(f"an answer that can't be read: {type(error).__name__}") from None


def _scores(logprobs: Mapping[str, Any] | None) -> list[Scored]:
    if logprobs is None:
        return []
    columns = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [Scored(_id(token), value, _ranked(top)) for token, value, top in columns]


def _ranked(top: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """The alternatives, likeliest first; vLLM puts the chosen token among them."""
    pairs = [(_id(token), float(value)) for token, value in (top or {}).items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _id(token: str) -> int:
    return int(token.removeprefix(_TOKEN))


def error_message(content: Any) -> str:
    """What vLLM says in an error's body, whichever of its forms."""
    found = content.get("error", content) if isinstance(content, dict) else content
    message = found.get("message") if isinstance(found, dict) else found
    return str(message)[:500]
