"""Opens what a server is to serve: the model it was started with and the further ones of the project file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from platen.core.download import Report, no_report
from platen.core.errors import ConfigError, PlatenError
from platen.core.phases import Phase, no_phase
from platen.engines.batching.config import DraftConfig
from platen.engines.batching.draft import DraftOptions
from platen.engines.batching.draft_ngrams import Continuations
from platen.engines.batching.engine import BatchingEngine
from platen.engines.batching.kv_budget import budget_bytes
from platen.engines.local import LocalModel, open_model, warm_up
from platen.engines.protocol import EngineFailed
from platen.engines.vllm.process import VllmOptions
from platen.models.folder import find_bundle
from platen.models.remote import is_url
from platen.models.sentence import Pooling, is_embedding_folder
from platen.models.store import HeldFolder, ModelCache
from platen.serve.config import ServeConfig
from platen.serve.hub.embedding_model import open_embedding_model
from platen.serve.hub.served_model import AnyModel, ModelInfo, ServedModel

log = logging.getLogger(__name__)


class ServeError(PlatenError):
    """The server can't start where it was told to, or with what it was told to serve."""


def open_any(
    path_or_name: Path | str,
    name: str,
    config: ServeConfig,
    *,
    source: str,
    kind: Literal["auto", "text", "embedding"] = "auto",
    pooling: Pooling | None = None,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> tuple[AnyModel, str]:
    """A model to be served under `name`, and why this engine runs it; `source` is how it was asked for.

    Raises BundleError when the folder can't be opened, ArtifactError when it can't be fetched,
    MissingExtraError.
    """
    held = None
    if is_url(str(path_or_name)):
        held = _fetched(str(path_or_name), config, report, phase)
    path = find_bundle(path_or_name) if held is None else held.path
    if kind == "embedding" or (kind == "auto" and is_embedding_folder(path)):
        model = open_embedding_model(
            path, name, config.batching, pooling, source=source, held=held, phase=phase
        )
        embedder = model.engine.embedder
        how = f"{embedder.config.pooling} of the last hidden states, {embedder.dimensions} dimensions"
        return model, f"{embedder.encoder.name}: an embedding model ({how})"
    local = open_configured(path_or_name if held else path, config, held=held, phase=phase)
    return served_model(local, name, source), local.why


def further_models(
    config: ServeConfig,
    first: str | None,
    find: Callable[[str], Path | str],
    *,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> list[AnyModel]:
    """The models that `serve.models` adds to the one named `first`, if any; `find` tells where each is.

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
            find(entry.path),
            entry.name,
            config,
            source=entry.path,
            kind=entry.kind,
            pooling=entry.pooling,
            report=report,
            phase=phase,
        )[0]
        for entry in config.models
    ]


def open_configured(
    path_or_name: Path | str,
    config: ServeConfig,
    *,
    held: HeldFolder | None = None,
    report: Report = no_report,
    phase: Phase = no_phase,
) -> LocalModel:
    """Open a model that writes, as configured; it has written a short text when this returns.

    `held` is what is at the URL, if it has been fetched already. Raises PlatenError.
    """
    model = open_model(
        path_or_name,
        max_concurrent=config.max_concurrent,
        max_queue=config.max_queue,
        max_wait=config.queue_seconds,
        cache_bytes=budget_bytes(config.kv_memory),
        fetched=lambda url: held or _fetched(url, config, report, phase),
        vllm=None if config.vllm is None else VllmOptions(**config.vllm.model_dump()),
        draft=None if config.draft is None else _draft_options(config.draft),
        phase=phase,
    )
    try:
        with phase("warm-up"):
            asyncio.run(warm_up(model))
    except EngineFailed as error:
        asyncio.run(model.engine.close())
        raise ServeError(
            f"{path_or_name} opens, but can't write: {error}", hint="Check it with platen generate."
        ) from None
    return model


def kv_limits(models: Sequence[AnyModel]) -> tuple[int, int]:
    """Of the first model: bytes that its keys and values may take and tokens of the longest request, or 0."""
    engine = models[0].engine if models and isinstance(models[0], ServedModel) else None
    return (engine.kv_bytes, engine.longest) if isinstance(engine, BatchingEngine) else (0, 0)


def _draft_options(config: DraftConfig) -> DraftOptions:
    ngram = None if config.ngram is None else Continuations.load(config.ngram)
    return DraftOptions(config.tokens, config.match, config.step_tokens, ngram)


def _fetched(url: str, config: ServeConfig, report: Report, phase: Phase) -> HeldFolder:
    def waiting(shown: str) -> None:
        log.warning("waiting for another process that is downloading %s", shown)

    cache = ModelCache(max_bytes=int(config.cache_gb * 1e9))
    return cache.open(url, report=report, waiting=waiting, phase=phase)


def served_model(model: LocalModel, name: str, source: str) -> ServedModel:
    """An opened bundle as clients see it under `name`."""
    info = ModelInfo(
        name=name,
        context_window=model.engine.capacity().context_window,
        parameters=model.parameters,
        kind=model.kind,
        fingerprint=model.fingerprint,
        created=int(model.path.stat().st_mtime),
        version=model.fingerprint[:12],
    )
    return ServedModel(model.engine, model.tokenizer, info, source)
