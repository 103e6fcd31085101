"""How an engine is to run a model, whichever engine it is; each takes of it what concerns it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from platen.core.devices import DType
from platen.engines.batching.kv_budget import DEFAULT, budget_bytes

if TYPE_CHECKING:
    from platen.engines.batching.draft import DraftOptions
    from platen.engines.vllm.config import VllmConfig


@dataclass(frozen=True)
class EngineOptions:
    """`max_concurrent` sequences are decoded together and `max_queue` more may wait, `max_wait` seconds each.

    `kv_cache_bytes` bounds the key/value cache, and what is kept of past prompts; by default a quarter of the
    memory that is free. `dtype` auto is float32 for PyTorch, in which a seeded request repeats whatever
    shares its batch, and the model's own for vLLM. `device` is auto, cpu, cuda, cuda:N or mps. `draft` lets
    PyTorch's engine check draft tokens; `vllm` is how vLLM is started.
    """

    max_concurrent: int = 16
    max_queue: int = 64
    max_wait: float = math.inf
    kv_cache_bytes: int = field(default_factory=partial(budget_bytes, DEFAULT))
    dtype: DType = "auto"
    device: str = "auto"
    draft: DraftOptions | None = None
    vllm: VllmConfig | None = None
