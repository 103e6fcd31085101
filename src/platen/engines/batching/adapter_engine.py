"""One adapter of an engine as an engine of its own: who serves it need not know whose weights it shares."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from platen.engines.protocol import (
    AdapterEngine,
    Capability,
    Capacity,
    EngineStats,
    GenerationRequest,
    TokenEvent,
)
from platen.prompts.structured import Grammar


class AdaptedEngine:
    """Computes every request with the adapter in `folder`, in the batch of `base`.

    Closing it unloads the adapter, leaves `base` as it is and calls `on_close`. Reads files: make it on a
    thread. Raises BundleError when the adapter does not fit.
    """

    def __init__(self, base: AdapterEngine, folder: Path, on_close: Callable[[], None]) -> None:
        self._base, self._on_close = base, on_close
        self._adapter = uuid.uuid4().hex
        self.name = base.name
        self.capabilities: frozenset[Capability] = base.capabilities - {"adapters"}
        self.fingerprint = base.load_adapter(self._adapter, folder)

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        return self._base.submit(replace(request, adapter=self._adapter))

    def prepare(self, grammar: Grammar) -> None:
        self._base.prepare(grammar)

    def cancel(self, request_id: str) -> None:
        self._base.cancel(request_id)

    def capacity(self) -> Capacity:
        return self._base.capacity()

    def stats(self) -> EngineStats:
        """Nothing of its own: what it runs is counted where it runs, at `base`."""
        return EngineStats(running=0, waiting=0, tokens_generated=0, failed=self._base.stats().failed)

    async def close(self) -> None:
        self._base.unload_adapter(self._adapter)
        self._on_close()
