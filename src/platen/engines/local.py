"""A bundle opened for use in this process: its engine, its tokenizer and what it says of itself.

For the server, and for commands that generate without one.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from platen.core.errors import BundleError, ConfigError, MissingExtraError
from platen.core.phases import Phase, no_phase
from platen.engines.batching.detokenize import Detokenizer
from platen.engines.batching.draft import DraftOptions
from platen.engines.batching.engine import BatchingEngine
from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.batching.kv_budget import DEFAULT, budget_bytes
from platen.engines.batching.runner import Runner
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.threads import on_passing_thread
from platen.engines.vllm.engine import VllmEngine
from platen.engines.vllm.process import VllmChild, VllmOptions, find_vllm
from platen.models.compiled import GGUF_FILE, Compiled, read_compiled
from platen.models.folder import bundle_fingerprint, find_bundle, read_json
from platen.models.llama_config import LlamaConfig
from platen.models.remote import is_url
from platen.models.store import HeldFolder, ModelCache, remembered_digests
from platen.prompts.messages import ModelKind, kind_of, text_prompt, truncated_chat_prompt
from platen.tokens.tokenizer import TextStream, Tokenizer

if TYPE_CHECKING:
    import torch

PREFILL_CHUNK = 512
"""Prompt tokens read beside the writing of others in one step."""


@dataclass(frozen=True)
class LocalModel:
    """An open bundle, or a compiled form of one. `why` says how its engine was chosen."""

    engine: BatchingEngine | VllmEngine
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
    max_wait: float = math.inf,
    cache_bytes: int | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    fetched: Callable[[str], HeldFolder] | None = None,
    vllm: VllmOptions | None = None,
    draft: DraftOptions | None = None,
    phase: Phase = no_phase,
) -> LocalModel:
    """Open a bundle or a compiled folder and start the engine that runs it; close it when done.

    A bundle runs in PyTorch, in float32 by default: in bfloat16 the rounding of a row depends on how many
    share its batch, and a seeded request would not always repeat. `cache_bytes` bounds a compiled engine's
    key/value cache, by default to a quarter of the memory that is free, and what PyTorch keeps for reuse. A
    request that has waited `max_wait` seconds in our own queue is given up. `fetched` makes a URL a local
    folder, by default in the user's cache of models. With `vllm` a bundle runs in a `vllm serve` process.
    `draft` lets PyTorch's engine check guesses of how texts go on.
    Raises BundleError when the folder can't be opened, ArtifactError when it can't be fetched, ConfigError
    for a draft where another engine would run or with another tokenizer's n-grams, MissingExtraError,
    VllmError.
    """
    files = None
    if is_url(str(path_or_name)):
        files = (fetched or ModelCache().open)(str(path_or_name))
    path = find_bundle(path_or_name) if files is None else files.path
    compiled = read_compiled(path)
    if cache_bytes is None:
        cache_bytes = budget_bytes(DEFAULT)
    if compiled is not None and vllm is not None:
        raise BundleError(
            f"{path} is compiled to {compiled.to}; vLLM runs bundles", hint="Give the bundle's own folder."
        )
    if draft is not None and (compiled is not None or vllm is not None):
        raise ConfigError(
            f"serve.draft is for PyTorch's engine, and {path} is for another",
            hint="Serve the bundle itself (platen serve --engine torch), or without serve.draft.",
        )
    runner: Runner | None = None
    if compiled is None and vllm is not None:
        config = LlamaConfig.from_hf(read_json(path / "config.json"))
        tokenizer = Tokenizer.from_dir(path)
        with phase("fingerprint"), remembered_digests() as digest:
            fingerprint = bundle_fingerprint(path, digest)
        why = "vllm: as configured"
    elif compiled is None:
        with phase("import PyTorch"):
            import torch

            from platen.engines.torch.cpu.packed import can_pack, pack
            from platen.engines.torch.runner import TorchRunner
            from platen.models.bundle import open_bundle
        with phase("open weights"):
            bundle = on_passing_thread(lambda: open_bundle(path, dtype=dtype or torch.float32, device=device))
        _check_ngram(draft, bundle.tokenizer, path)
        with phase("pack"):
            if can_pack(bundle.model):
                on_passing_thread(lambda: pack(bundle.model))
            runner = TorchRunner(bundle.model, max_rows=max_concurrent, cache_bytes=cache_bytes)
        with phase("fingerprint"), remembered_digests() as digest:
            fingerprint = bundle_fingerprint(path, digest)
        config, tokenizer = bundle.config, bundle.tokenizer
        why = "torch: a bundle that is not compiled"
    else:
        config = LlamaConfig.from_hf(read_json(path / "config.json"))
        tokenizer, fingerprint = Tokenizer.from_dir(path), compiled.bundle_fingerprint
        with phase("open weights"):
            runner = _compiled_runner(path, compiled, config, max_concurrent, cache_bytes)
        why = f"{runner.name}: compiled to {compiled.to}, {compiled.weights}"
    end_ids = (*config.eos_token_ids, *(() if tokenizer.eos_id is None else (tokenizer.eos_id,)))
    text = _Text(
        new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
        token_text=tokenizer.token_text,
        eos_ids=end_ids,
        grammars=GrammarCompiler(tokenizer, config.vocab_size, end_ids),
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        on_close=None if files is None else files.release,
    )
    with phase("start engine"):
        engine: BatchingEngine | VllmEngine
        if runner is not None:
            engine = BatchingEngine(
                runner, prefill_chunk=PREFILL_CHUNK, max_wait=max_wait, draft=draft, **text
            )
        else:
            assert vllm is not None
            engine = start_vllm(path, config, vllm, **text)
    parameters = config.num_parameters()
    return LocalModel(engine, tokenizer, path, fingerprint, parameters, kind_of(tokenizer), why)


def _check_ngram(draft: DraftOptions | None, tokenizer: Tokenizer, path: Path) -> None:
    if draft is None or draft.ngram is None or draft.ngram.about.tokenizer_sha256 == tokenizer.sha256:
        return
    raise ConfigError(
        f"serve.draft.ngram was counted with another tokenizer than that of {path}",
        hint=f"Count again: platen tokens encode CORPUS -t {path} --out TOKENS; "
        "platen baselines draft TOKENS --out FOLDER",
    )


class _Text(TypedDict):
    """What every engine of a local model is given alike."""

    new_detokenizer: Callable[[Sequence[int]], Detokenizer]
    token_text: Callable[[int], str]
    eos_ids: tuple[int, ...]
    grammars: GrammarCompiler
    max_concurrent: int
    max_queue: int
    on_close: Callable[[], None] | None


def start_vllm(
    path: Path, config: LlamaConfig, options: VllmOptions, *, max_concurrent: int, **text: Any
) -> VllmEngine:
    """vLLM on a bundle's folder. Raises VllmError, ConfigError when it is not installed."""
    child = VllmChild(path, options, max_concurrent, find_vllm())
    window = min(config.max_position_embeddings, options.max_model_len or config.max_position_embeddings)
    return VllmEngine(
        child,
        context_window=window,
        vocab_size=config.vocab_size,
        max_concurrent=max_concurrent,
        **text,
    )


def _compiled_runner(
    path: Path, compiled: Compiled, config: LlamaConfig, max_rows: int, cache_bytes: int
) -> Runner:
    try:
        if compiled.to == "openvino":
            from platen.engines.openvino.runner import OpenVinoRunner

            return OpenVinoRunner(path, max_rows=max_rows, cache_bytes=cache_bytes)
        from platen.engines.llamacpp.runner import LlamaCppRunner

        return LlamaCppRunner(
            path / GGUF_FILE,
            context_window=config.max_position_embeddings,
            max_rows=max_rows,
            step_tokens=2 * PREFILL_CHUNK + max_rows,
            cache_bytes=cache_bytes,
        )
    except ImportError:
        extra = "openvino" if compiled.to == "openvino" else "edge"
        raise MissingExtraError(extra, f"serving {path}") from None


async def warm_up(model: LocalModel) -> None:
    """Let a short text go through the engine, so that the first client does not wait for what is done once.

    Raises EngineFailed when the engine can't write.
    """
    window = model.engine.capacity().context_window
    ids = text_prompt(model.tokenizer, "The quick brown fox jumps over the lazy dog. " * 2)[: window // 2]
    request = GenerationRequest("warm-up", ids, SamplingParams(seed=0, max_tokens=4, ignore_eos=True))
    async for _ in model.engine.submit(request):
        pass


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
    async for event in _stream(engine, truncated_chat_prompt(tokenizer, messages, window - wanted), sampling):
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
