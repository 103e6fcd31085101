"""A model opened for use in this process: its engine, its tokenizer and what it says of itself.

For the server, and for commands that generate without one.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platen.core.errors import ConfigError, MissingExtraError
from platen.core.phases import Phase, no_phase
from platen.engines.choose import Choice, choose
from platen.engines.options import EngineOptions
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams, TokenEvent
from platen.engines.registry import engines
from platen.models.generation_config import NO_DEFAULTS, SamplingDefaults
from platen.models.resolve import ResolvedModel, resolve
from platen.prompts.encoding import ModelKind, kind_of, text_prompt, truncated_chat_prompt
from platen.prompts.templates import check_templates
from platen.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class LocalModel:
    """An open model. `why` says how its engine was chosen; `defaults` is how its makers would sample.

    `version` is the registered MODEL@NUMBER that it was opened by, if it was.
    """

    engine: Engine
    tokenizer: Tokenizer
    path: Path
    fingerprint: str
    parameters: int
    kind: ModelKind
    why: str
    defaults: SamplingDefaults = NO_DEFAULTS
    version: str | None = None


def open_model(
    model: ResolvedModel | Path | str,
    options: EngineOptions = EngineOptions(),
    *,
    engine: str | None = None,
    phase: Phase = no_phase,
) -> LocalModel:
    """Start the engine that runs a model; close it when done.

    `engine` is as `choose` takes it: by default the engine for the very form that `model` names. Its files
    are given back when the engine is closed, or can't be opened.
    Raises BundleError when the model can't be opened, ArtifactError when it can't be fetched, ConfigError
    for options that the engine can't follow, such as a device that is not there, MissingExtraError.
    """
    resolved = model if isinstance(model, ResolvedModel) else resolve(model)
    try:
        return _opened(choose(resolved, engine, options.device), options, phase)
    except BaseException:
        resolved.release()
        raise


def _opened(choice: Choice, options: EngineOptions, phase: Phase) -> LocalModel:
    model, spec = choice.model, choice.spec
    _check_draft(choice, options)
    check_templates(model.tokenizer)
    try:
        opened = spec.open(model, options, phase)
    except ImportError:
        spec.check_installed(f"serving {model.path}")
        if not spec.extra:
            raise
        raise MissingExtraError(spec.extra, f"serving {model.path}") from None
    with phase("fingerprint"):
        fingerprint = model.fingerprint
    return LocalModel(
        engine=opened,
        tokenizer=model.tokenizer,
        path=model.path,
        fingerprint=fingerprint,
        parameters=model.parameters,
        kind=kind_of(model.tokenizer),
        why=choice.why or str(choice),
        defaults=model.generation.sampling,
        version=model.version,
    )


def _check_draft(choice: Choice, options: EngineOptions) -> None:
    if options.draft is None or "draft" in choice.spec.capabilities:
        return
    names = [spec.name for spec in engines().values() if "draft" in spec.capabilities]
    raise ConfigError(
        f"serve.draft is for the engine {' or '.join(names)}, and {choice.model.path} is run by "
        f"{choice.spec.name}",
        hint=f"Serve the bundle itself (platen serve --engine {names[0]}), or without serve.draft.",
    )


async def warm_up(model: LocalModel) -> None:
    """Generate a few tokens, so that the first client does not wait for one-time work.

    Raises EngineFailed when the engine fails.
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

    An empty prompt begins a new document. Raises RequestRefused when the prompt does not fit.
    """
    async for event in _stream(engine, text_prompt(tokenizer, prompt), sampling):
        yield event


async def stream_chat(
    engine: Engine, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], sampling: SamplingParams
) -> AsyncIterator[TokenEvent]:
    """Respond to a conversation, event by event; `messages` have `role` and `content`.

    When it has grown too long, the oldest turns are left out so that half the context window, or
    `max_tokens` if less, is free for the response. Raises ChatTemplateError, and RequestRefused when the last
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
