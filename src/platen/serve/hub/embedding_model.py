"""An embedding model as it is served: requests of all protocols go through one batcher to one thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from platen.core.phases import Phase, no_phase
from platen.engines.protocol import EngineStats
from platen.models.sentence import Pooling
from platen.models.store import HeldFolder
from platen.serve.access.caller import Caller
from platen.serve.api.embedding_types import MODEL_LIMIT
from platen.serve.config import BatchingConfig
from platen.serve.hub.batcher import Batcher, BatchLimits
from platen.serve.hub.served_model import AnyModel, ModelInfo, tokenize
from platen.web.errors import ApiError, failed

if TYPE_CHECKING:
    from platen.engines.embedding.embedder import Embedder, Vectors

log = logging.getLogger(__name__)

TokenIds = Sequence[int]


class EmbeddingEngine:
    """An embedder with its batcher. Belongs to one event loop."""

    def __init__(self, embedder: Embedder, limits: BatchLimits, held: HeldFolder | None = None) -> None:
        """`held` is the model's folder in a cache, to be given back at the end."""
        self.embedder, self._held = embedder, held
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self._batcher: Batcher[TokenIds, Vectors] = Batcher(self._compute, limits, size=len)
        self._running = 0

    async def token_ids(
        self, inputs: Sequence[str] | Sequence[list[int]], truncate: int | None, *, param: str = "input"
    ) -> list[list[int]]:
        """The token ids of each input, texts or ids already.

        Of a longer input the first `truncate` are taken, as many as the model reads if that is MODEL_LIMIT.
        Raises ApiError, naming `param`, for an input that the model can't read.
        """
        limit = self.embedder.max_tokens if truncate == MODEL_LIMIT else truncate
        texts = [given for given in inputs if isinstance(given, str)]
        try:
            if texts:
                batch = await tokenize(sum(map(len, texts)), lambda: self.embedder.token_ids(texts, limit))
            else:
                batch = [list(given)[:limit] for given in inputs if not isinstance(given, str)]
            for ids in batch:
                self.embedder.check(ids)
        except ValueError as error:
            raise _refused(str(error), param) from None
        return batch

    async def embed(self, batch: Sequence[TokenIds], dimensions: int | None = None) -> Vectors:
        """A vector (C,) or (`dimensions`,) for each list of checked ids: (N, C).

        Raises ApiError: too many dimensions, overload, shutdown or failure.
        """
        own = self.embedder.dimensions
        if dimensions is not None and dimensions > own:
            raise ApiError(
                400,
                f"Invalid 'dimensions': the model's vectors have {own}; {dimensions} are asked for.",
                param="dimensions",
                code="invalid_value",
            )
        self._running += 1
        try:
            vectors = np.stack(await self._batcher.submit(batch))
        except ApiError:
            raise
        except Exception as error:
            log.exception("embedding failed")
            raise failed() from error
        finally:
            self._running -= 1
        if dimensions is None:
            return vectors
        shortened: Vectors = vectors[:, :dimensions]
        shortened /= np.maximum(np.linalg.norm(shortened, axis=1, keepdims=True), 1e-30)
        return shortened

    async def _compute(self, batch: Sequence[TokenIds]) -> Sequence[Vectors]:
        loop = asyncio.get_running_loop()
        return list(await loop.run_in_executor(self._thread, self.embedder.embed, batch))

    def stats(self) -> EngineStats:
        """Requests in progress, and those of their texts that wait."""
        counted = self._batcher.stats
        extra = {
            "batches": float(counted.batches),
            "batched_items": float(counted.items),
            "batch_wait_seconds": counted.waited,
        }
        return EngineStats(self._running, counted.waiting, 0, extra=extra)

    async def close(self) -> None:
        """Fail what waits and free the thread. Closing it again, in whatever loop, does no harm."""
        await self._batcher.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._held is not None:
            self._held.release()


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """One loaded embedding model. `source` is what it was loaded from, as it was asked for."""

    engine: EmbeddingEngine
    info: ModelInfo
    source: str = ""

    async def embed(self, batch: Sequence[TokenIds], dimensions: int | None, caller: Caller) -> Vectors:
        """As the engine does, for a caller whose tokens are counted. Raises ApiError."""
        used = sum(map(len, batch))
        await caller.admit(self.info.name, used, 0)
        try:
            return await self.engine.embed(batch, dimensions)
        except ApiError:
            used = 0
            raise
        finally:
            caller.settle(used, 0)


def embedding_of(model: AnyModel) -> EmbeddingModel:
    """The model, if it is one that embeds; raises ApiError if it generates text."""
    if isinstance(model, EmbeddingModel):
        return model
    raise ApiError(
        400,
        f"The model '{model.info.name}' writes text; it does not make embeddings.",
        param="model",
        code="model_not_supported",
    )


def open_embedding_model(
    path_or_name: Path | str,
    name: str,
    batching: BatchingConfig,
    pooling: Pooling | None = None,
    *,
    source: str,
    held: HeldFolder | None = None,
    phase: Phase = no_phase,
) -> EmbeddingModel:
    """Open an embedding model to be served under `name`; it has embedded a text when this returns.

    Raises what `open_embedder` does.
    """
    from platen.engines.embedding.embedder import open_embedder

    with phase("open weights"):
        embedder = open_embedder(path_or_name, pooling=pooling)
    with phase("warm-up"):
        embedder.embed(embedder.token_ids(["warm"], embedder.max_tokens))
    limits = BatchLimits(
        max_items=batching.max_texts,
        max_size=batching.max_tokens,
        max_delay=batching.max_delay_seconds,
        max_queue=batching.max_queue,
    )
    info = ModelInfo(
        name=name,
        context_window=embedder.max_tokens,
        parameters=embedder.encoder.parameters,
        kind="embedding",
        fingerprint=embedder.fingerprint,
        created=int(embedder.path.stat().st_mtime),
        version=embedder.fingerprint[:12],
    )
    return EmbeddingModel(EmbeddingEngine(embedder, limits, held), info, source)


def _refused(reason: str, param: str) -> ApiError:
    message = f"{reason[:1].upper()}{reason[1:]}."
    if "longer than" not in reason:
        return ApiError(400, message, param=param, code="invalid_value")
    hint = " With truncate_prompt_tokens: -1 only the beginning of a long text is read."
    return ApiError(400, message + hint, param=param, code="context_length_exceeded")
