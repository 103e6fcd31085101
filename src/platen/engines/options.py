"""How an engine is to run a model, whichever engine it is; each takes of it what concerns it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from platen.core.devices import DType

if TYPE_CHECKING:
    from platen.engines.batching.draft import DraftOptions
    from platen.engines.vllm.config import VllmConfig


@dataclass(frozen=True)
class EngineOptions:
    """`max_concurrent` sequences are decoded together and `max_queue` more may wait, `max_wait` seconds each.

    `kv_cache_bytes` bounds the key/value cache, and what is kept of past prompts; None is a quarter of the
    memory that is free. `dtype` auto is float32 for PyTorch, in which a seeded request repeats whatever
    shares its batch, and the model's own for vLLM. `device` is auto, cpu, cuda, cuda:N or mps. `draft` lets
    PyTorch's engine check draft tokens; `vllm` is how vLLM is started.
    """

    max_concurrent: int = 16
    max_queue: int = 64
    max_wait: float = math.inf
    kv_cache_bytes: int | None = None
    dtype: DType = "auto"
    device: str = "auto"
    draft: DraftOptions | None = None
    vllm: VllmConfig | None = None

    def cache_budget(self) -> int:
        """Bytes that the key/value cache may take."""
        if self.kv_cache_bytes is not None:
            return self.kv_cache_bytes
        import psutil

        return int(psutil.virtual_memory().available) // 4
