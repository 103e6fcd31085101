"""A bundle opened for use in this process: its engine, its tokenizer and what it says of itself.

For the server, and for commands that generate without one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from platen.engines.batching import BatchingEngine
from platen.engines.grammar import GrammarCompiler
from platen.engines.prompts import ModelKind, fitting_chat_prompt, kind_of, text_prompt
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.runner import Runner
from platen.engines.threads import on_passing_thread
from platen.engines.torch_runner import REUSE_BYTES, TorchRunner
from platen.errors import MissingExtraError
from platen.models.bundle import Bundle, find_bundle, open_bundle, read_json
from platen.models.compiled import GGUF_FILE, Compiled, read_compiled
from platen.models.config import LlamaConfig
from platen.models.packed import can_pack, pack
from platen.tokens.tokenizer import TextStream, Tokenizer

PREFILL_CHUNK = 512
"""Prompt tokens read beside the writing of others in one step."""


@dataclass(frozen=True)
class LocalModel:
    """An open bundle, or a compiled form of one. `why` says how its engine was chosen."""

    engine: BatchingEngine
    tokenizer: Tokenizer
    path: Path
    fingerprint: str
    parameters: int
    kind: ModelKind
    why: str


def open_model(
    path_or_name: Path | str,
    *,
    max_concurrent: int = 16,
    max_queue: int = 64,
    cache_bytes: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LocalModel:
    """Open a bundle or a compiled folder and start the engine that runs it; close it when done.

    A bundle runs in PyTorch, in float32 by default: in bfloat16 the rounding of a row depends on how many
    share its batch, and a seeded request would not always repeat. `cache_bytes` bounds a compiled engine's
    key/value cache, by default to a quarter of the memory that is free, and what PyTorch keeps for reuse.
    Raises BundleError when the folder can't be opened, MissingExtraError.
    """
    path = find_bundle(path_or_name)
    compiled = read_compiled(path)
    if cache_bytes is None:
        cache_bytes = psutil.virtual_memory().available // 4
    if compiled is None:
        bundle = on_passing_thread(lambda: _packed_bundle(path, dtype, device))
        runner: Runner = TorchRunner(
            bundle.model, max_rows=max_concurrent, reuse_bytes=min(REUSE_BYTES, cache_bytes)
        )
        config, tokenizer, fingerprint = bundle.config, bundle.tokenizer, bundle.fingerprint
        why = "torch: a bundle that is not compiled"
    else:
        config = LlamaConfig.from_hf(read_json(path / "config.json"))
        tokenizer, fingerprint = Tokenizer.from_dir(path), compiled.bundle_fingerprint
        runner = _compiled_runner(path, compiled, config, max_concurrent, cache_bytes)
        why = f"{runner.name}: compiled to {compiled.to}, {compiled.weights}"
    end_ids = (*config.eos_token_ids, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,)))
    engine = BatchingEngine(
        runner,
        new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
        token_text=tokenizer.token_text,
        eos_ids=end_ids,
        grammars=GrammarCompiler(tokenizer.raw.decode(), config.vocab_size, end_ids),
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        prefill_chunk=PREFILL_CHUNK,
    )
    parameters = config.num_parameters()
    return LocalModel(engine, tokenizer, path, fingerprint, parameters, kind_of(tokenizer), why)


def _packed_bundle(path: Path, dtype: torch.dtype, device: str) -> Bundle:
    bundle = open_bundle(path, dtype=dtype, device=device)
    if can_pack(bundle.model):
        pack(bundle.model)
    return bundle


def _compiled_runner(
    path: Path, compiled: Compiled, config: LlamaConfig, max_rows: int, cache_bytes: int
) -> Runner:
    try:
        if compiled.to == "openvino":
            from platen.engines.openvino_runner import OpenVinoRunner

            return OpenVinoRunner(path, max_rows=max_rows, cache_bytes=cache_bytes)
        from platen.engines.llamacpp_runner import LlamaCppRunner

        # Two numbers of 2 bytes a key/value head's element, in every layer.
        cell = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        # As many places again as may be in use, for sequences that are over.
        places = min(2 * max_rows, cache_bytes // (cell * config.max_position_embeddings))
        return LlamaCppRunner(
            path / GGUF_FILE,
            context_window=config.max_position_embeddings,
            places=max(1, places),
            step_tokens=2 * PREFILL_CHUNK + max_rows,
        )
    except ImportError:
        extra = "openvino" if compiled.to == "openvino" else "edge"
        raise MissingExtraError(extra, f"serving {path}") from None


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
