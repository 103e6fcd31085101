"""An engine opened for an evaluation, which asks it batch by batch and waits for each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from platen.engines.local import LocalModel, open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, TokenEvent

_AT_ONCE = 8
_QUEUE = 1 << 16


class EngineSession:
    """A model in the engine for its form; it is opened at entering and closed at leaving."""

    model: LocalModel

    def __init__(self, path: Path, device: str) -> None:
        """`device` as `evaluate.device` has it."""
        self._path = path
        self._options = EngineOptions(max_concurrent=_AT_ONCE, max_queue=_QUEUE, device=device)
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        """Raises as `open_model`."""
        self.model = open_model(self._path, self._options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run(self.model.engine.close())
        finally:
            self._loop.close()

    def run(self, requests: Sequence[GenerationRequest]) -> list[list[TokenEvent]]:
        """The events of each request, in the requests' order. Raises as the engine's streams."""
        return self._loop.run(self._all(requests))

    async def _all(self, requests: Sequence[GenerationRequest]) -> list[list[TokenEvent]]:
        return list(await asyncio.gather(*map(self._one, requests)))

    async def _one(self, request: GenerationRequest) -> list[TokenEvent]:
        return [event async for event in self.model.engine.submit(request)]
