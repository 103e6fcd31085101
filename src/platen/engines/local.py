"""A bundle opened for use in this process: its engine, its tokenizer and what it says of itself.

For the server, and for commands that generate without one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from platen.engines.prompts import ModelKind, fitting_chat_prompt, kind_of, text_prompt
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.torch_engine import TorchEngine
from platen.models.bundle import Bundle, open_bundle
from platen.tokens.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class LocalModel:
    """An open bundle."""

    engine: TorchEngine
    tokenizer: Tokenizer
    path: Path
    fingerprint: str
    parameters: int
    kind: ModelKind


def open_model(
    path_or_name: Path | str,
    *,
    max_concurrent: int = 16,
    max_queue: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LocalModel:
    """Open a bundle and start its engine; close the engine when done.

    float32 by default: in bfloat16 the rounding of a row depends on how many share its batch, and a
    seeded request would not always repeat. Raises BundleError when the bundle can't be opened.
    """
    bundle = open_bundle(path_or_name, dtype=dtype, device=device)
    tokenizer = bundle.tokenizer
    engine = TorchEngine(
        bundle.model,
        new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
        token_text=tokenizer.token_text,
        eos_ids=_end_ids(bundle),
        max_concurrent=max_concurrent,
        max_queue=max_queue,
    )
    return LocalModel(
        engine,
        tokenizer,
        bundle.path,
        bundle.fingerprint,
        sum(parameter.numel() for parameter in bundle.model.parameters()),
        kind_of(tokenizer),
    )


async def stream_text(
    engine: Engine, tokenizer: Tokenizer, prompt: str, sampling: SamplingParams
) -> AsyncIterator[TokenEvent]:
    """Continue `prompt`, event by event. Leaving the loop early cancels the request.

    An empty prompt begins a new document. Raises ValueError when the prompt does not fit.
    """
    async for event in _stream(engine, text_prompt(tokenizer, prompt), sampling):
        yield event


async def stream_chat(
    engine: Engine, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], sampling: SamplingParams
) -> AsyncIterator[TokenEvent]:
    """Answer a conversation, event by event; `messages` have `role` and `content`.

    When it has grown too long, the oldest turns are left out so that half the context window, or
    `max_tokens` if less, is free for the answer. Raises ChatTemplateError, and ValueError when the last
    message alone does not fit.
    """
    window = engine.capacity().context_window
    wanted = window // 2 if sampling.max_tokens is None else min(sampling.max_tokens, window // 2)
    async for event in _stream(engine, fitting_chat_prompt(tokenizer, messages, window - wanted), sampling):
        yield event


async def _stream(
    engine: Engine, prompt_ids: Sequence[int], sampling: SamplingParams
) -> AsyncIterator[TokenEvent]:
    request = GenerationRequest(uuid.uuid4().hex, prompt_ids, sampling)
    try:
        async for event in engine.submit(request):
            yield event
    finally:
        engine.cancel(request.request_id)


def _end_ids(bundle: Bundle) -> tuple[int, ...]:
    own = () if bundle.tokenizer.eos_id is None else (bundle.tokenizer.eos_id,)
    return (*bundle.config.eos_token_ids, *own)
