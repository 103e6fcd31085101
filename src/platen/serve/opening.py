"""Opens what a server is to serve: the model it was started with and the further ones of the project file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from platen.engines.local import LocalModel, open_model
from platen.errors import ConfigError
from platen.models.bundle import find_bundle
from platen.models.sentence import Pooling, is_embedding_folder
from platen.project import ServeConfig
from platen.serve.embedding_model import open_embedding_model
from platen.serve.served import AnyModel, ModelInfo, ServedModel


def open_any(
    path_or_name: Path | str,
    name: str,
    config: ServeConfig,
    *,
    source: str,
    kind: Literal["auto", "text", "embedding"] = "auto",
    pooling: Pooling | None = None,
) -> tuple[AnyModel, str]:
    """A model to be served under `name`, and why this engine runs it; `source` is how it was asked for.

    Raises BundleError when the folder can't be opened, MissingExtraError.
    """
    path = find_bundle(path_or_name)
    if kind == "embedding" or (kind == "auto" and is_embedding_folder(path)):
        model = open_embedding_model(path, name, config.batching, pooling, source=source)
        embedder = model.engine.embedder
        how = f"{embedder.config.pooling} of the last hidden states, {embedder.dimensions} dimensions"
        return model, f"{embedder.encoder.name}: an embedding model ({how})"
    local = open_model(path, max_concurrent=config.max_concurrent, max_queue=config.max_queue)
    return served_model(local, name, source), local.why


def further_models(config: ServeConfig, first: str, find: Callable[[str], Path | str]) -> list[AnyModel]:
    """The models that `serve.models` adds to the one named `first`; `find` tells where each lies.

    Raises ConfigError when two have one name, and what `open_any` does.
    """
    names = [first, *(entry.name for entry in config.models)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two models are to be served as '{twice}'", hint="Give each of serve.models a name of its own."
        )
    opened = []
    for entry in config.models:
        model, _ = open_any(
            find(entry.path), entry.name, config, source=entry.path, kind=entry.kind, pooling=entry.pooling
        )
        opened.append(model)
    return opened


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
