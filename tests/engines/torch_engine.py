"""The engine that most tests drive: continuous batching over the reference runner."""

from __future__ import annotations

from typing import Any

from platen.engines.batching.engine import BatchingEngine
from platen.engines.torch.runner import TorchRunner
from platen.models.arch.decoder import Decoder


class TorchEngine(BatchingEngine):
    """Continuous batching of a model in PyTorch; options as for `BatchingEngine`."""

    def __init__(
        self, model: Decoder, *, max_concurrent: int = 16, cache_bytes: int = 2**30, **options: Any
    ) -> None:
        super().__init__(
            TorchRunner(model, max_rows=max_concurrent, cache_bytes=cache_bytes),
            max_concurrent=max_concurrent,
            **options,
        )
