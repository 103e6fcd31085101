"""Opens what a server is to serve: the model it was started with and the further ones of the project file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from platen.core.download import Report, no_report
from platen.core.errors import ConfigError, PlatenError
from platen.core.phases import Phase, no_phase
from platen.engines.batching.config import DraftConfig
from platen.engines.batching.draft import DraftOptions
from platen.engines.batching.draft_ngrams import Continuations
from platen.engines.batching.kv_budget import budget_bytes
from platen.engines.choose import AUTO
from platen.engines.local import LocalModel, open_model, warm_up
from platen.engines.options import EngineOptions
from platen.engines.protocol import EngineFailed
from platen.engines.registry import engine as engine_named
from platen.models.generation_config import NO_DEFAULTS
from platen.models.resolve import Location, ResolvedModel, Resolver
from platen.models.sentence import Pooling, is_embedding_folder
from platen.models.store import HeldFolder, ModelCache
from platen.prompts.tools import tool_format
from platen.serve.config import ServeConfig
from platen.serve.hub.embedding_model import open_embedding_model
from platen.serve.hub.served_model import AnyModel, ModelInfo, ServedModel

_UNCONFIGURED = ServeConfig()
_NO_NAMES = Resolver()
log = logging.getLogger(__name__)


class ServeError(PlatenError):
    """The server can't start where it was told to, or with what it was told to serve."""


def open_any(
    reference: ResolvedModel | Location | Path | str,
    name: str,
    config: ServeConfig,
    *,
    resolver: Resolver = _NO_NAMES,
    engine: str | None = None,
    kind: Literal["auto", "text", "embedding"] = "auto",
    pooling: Pooling | None = None,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> tuple[AnyModel, str]:
    """A model to be served under `name`, and why this engine runs it.

    `engine` must be had; without one, the configured engine is taken if a form of the model is for it.
    Raises BundleError when the folder can't be opened, ArtifactError when it can't be fetched, ConfigError
    for an engine that has no form to run, MissingExtraError.
    """
    model = _resolved(reference, config, resolver, report, phase)
    if kind == "embedding" or (kind == "auto" and is_embedding_folder(model.path)):
        embedding = open_embedding_model(
            model.path, name, config.batching, pooling, source=model.reference, held=model.held, phase=phase
        )
        embedder = embedding.engine.embedder
        how = f"{embedder.config.pooling} of the last hidden states, {embedder.dimensions} dimensions"
        return embedding, f"{embedder.encoder.name}: an embedding model ({how})"
    local = open_configured(model, config, engine=engine, phase=phase)
    return served_model(local, name, model.reference, config), local.why


def _resolved(
    reference: ResolvedModel | Location | Path | str,
    config: ServeConfig,
    resolver: Resolver,
    report: Report,
    phase: Phase,
) -> ResolvedModel:
    """The model, fetched into the cache that is configured."""
    if isinstance(reference, ResolvedModel):
        return reference
    return replace(resolver, fetch=partial(_fetched, config)).resolve(reference, report=report, phase=phase)


def further_models(
    config: ServeConfig,
    first: str | None,
    resolver: Resolver = _NO_NAMES,
    *,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> list[AnyModel]:
    """The models that `serve.models` adds to the one named `first`, if any.

    Raises ConfigError when two have one name, and what `open_any` does.
    """
    names = [entry.name for entry in config.models] + ([] if first is None else [first])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two models are to be served as '{twice}'", hint="Give each of serve.models a name of its own."
        )
    return [
        open_any(
            entry.path,
            entry.name,
            config,
            resolver=resolver,
            kind=entry.kind,
            pooling=entry.pooling,
            report=report,
            phase=phase,
        )[0]
        for entry in config.models
    ]


def _engine_for(model: ResolvedModel, config: ServeConfig) -> str:
    """The configured engine, if the model has a form for it."""
    name = config.wanted_engine
    if name == AUTO or any(form.form in engine_named(name).forms for form in model.forms):
        return name
    return AUTO


def open_configured(
    reference: ResolvedModel | Location | Path | str,
    config: ServeConfig,
    *,
    engine: str | None = None,
    resolver: Resolver = _NO_NAMES,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> LocalModel:
    """Open a generating model, as configured; it is warmed up when this returns.

    Raises PlatenError.
    """
    resolved = _resolved(reference, config, resolver, report, phase)
    wanted = engine or _engine_for(resolved, config)
    model = open_model(resolved, engine_options(config), engine=wanted, phase=phase)
    try:
        with phase("warm-up"):
            asyncio.run(warm_up(model))
    except EngineFailed as error:
        asyncio.run(model.engine.close())
        raise ServeError(
            f"{resolved.reference} opens, but can't write: {error}", hint="Check it with platen generate."
        ) from None
    return model


def engine_options(config: ServeConfig) -> EngineOptions:
    """How the configured service's engines are to run."""
    return EngineOptions(
        max_concurrent=config.max_concurrent,
        max_queue=config.max_queue,
        max_wait=config.queue_seconds,
        kv_cache_bytes=budget_bytes(config.kv_memory),
        dtype=config.dtype,
        device=config.device,
        draft=None if config.draft is None else _draft_options(config.draft),
        vllm=config.vllm,
    )


def kv_limits(models: Sequence[AnyModel]) -> tuple[int, int]:
    """Of the first model: bytes that its keys and values may take and tokens of the longest request, or 0."""
    if not models or not isinstance(models[0], ServedModel):
        return 0, 0
    capacity = models[0].engine.capacity()
    return capacity.kv_bytes, capacity.longest


def _draft_options(config: DraftConfig) -> DraftOptions:
    ngram = None if config.ngram is None else Continuations.load(config.ngram)
    return DraftOptions(config.tokens, config.match, config.step_tokens, ngram)


def _fetched(config: ServeConfig, url: str, report: Report, phase: Phase) -> HeldFolder:
    def waiting(shown: str) -> None:
        log.warning("waiting for another process that is downloading %s", shown)

    cache = ModelCache(max_bytes=int(config.cache_gb * 1e9))
    return cache.open(url, report=report, waiting=waiting, phase=phase)


def served_model(
    model: LocalModel, name: str, source: str, config: ServeConfig = _UNCONFIGURED
) -> ServedModel:
    """An opened bundle as clients see it under `name`."""
    defaults = model.defaults if config.generation_config == "auto" else NO_DEFAULTS
    info = ModelInfo(
        name=name,
        context_window=model.engine.capacity().context_window,
        parameters=model.parameters,
        kind=model.kind,
        fingerprint=model.fingerprint,
        created=int(model.path.stat().st_mtime),
        version=model.fingerprint[:12],
        registered=model.version,
        defaults=defaults,
    )
    tool_format(model.tokenizer)  # which runs the template, so not when a request waits for it
    return ServedModel(model.engine, model.tokenizer, info, source)
