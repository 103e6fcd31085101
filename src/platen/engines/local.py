"""A bundle opened for use in this process: its engine, its tokenizer and what it says of itself.

For the server, and for commands that generate without one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from platen.engines.protocol import Engine, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.torch_engine import TorchEngine
from platen.models.bundle import Bundle, open_bundle
from platen.tokens.tokenizer import ChatTemplateError, TextStream, Tokenizer


@dataclass(frozen=True)
class LocalModel:
    """An open bundle. `kind` is chat when it brings a chat template of its own, else base."""

    engine: TorchEngine
    tokenizer: Tokenizer
    path: Path
    fingerprint: str
    parameters: int
    kind: Literal["base", "chat"]


def open_model(
    path: Path | str,
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
    bundle = open_bundle(path, dtype=dtype, device=device)
    tokenizer = bundle.tokenizer
    engine = TorchEngine(
        bundle.model,
        new_detokenizer=lambda: TextStream(tokenizer),
        token_text=lambda token_id: tokenizer.decode([token_id], skip_special=False),
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


def _end_ids(bundle: Bundle) -> tuple[int, ...]:
    own = () if bundle.tokenizer.eos_id is None else (bundle.tokenizer.eos_id,)
    return (*bundle.config.eos_token_ids, *own)


def kind_of(tokenizer: Tokenizer) -> Literal["base", "chat"]:
    """Whether a model was made for turns, told by its chat template: a plain one marks no turns."""
    if not tokenizer.has_chat_template:
        return "base"
    texts = ("first", "second", "third")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        prompt = tokenizer.apply_chat_template(messages)
    except ChatTemplateError:
        return "chat"
    return "base" if "".join(prompt.split()) == "".join(texts) else "chat"


async def stream_text(
    engine: Engine, tokenizer: Tokenizer, prompt: str, sampling: SamplingParams
) -> AsyncIterator[TokenEvent]:
    """Continue `prompt`, event by event. Leaving the loop early cancels the request.

    An empty prompt begins a new document. Raises ValueError when the prompt does not fit.
    """
    ids = tokenizer.encode(prompt, add_bos=True)
    if not ids and tokenizer.eos_id is not None:
        ids = [tokenizer.eos_id]
    request = GenerationRequest(uuid.uuid4().hex, ids, sampling)
    try:
        async for event in engine.submit(request):
            yield event
    finally:
        engine.cancel(request.request_id)
