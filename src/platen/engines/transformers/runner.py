"""Runs what only transformers knows: its own network and caches, sequence after sequence, correct first."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence as Request


class TransformersRunner:
    """A causal language model of transformers. A model without a cache computes all tokens at each step."""

    name = "transformers"
    adapters = None
    kv_bytes = 0

    def __init__(self, model: Any, *, context_window: int, max_rows: int) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self.context_window = context_window
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        self._max_rows = max_rows
        self._takes_cache = "past_key_values" in inspect.signature(model.forward).parameters
        self._caches: dict[Request, Any] = {}

    def reset(self) -> None:
        self._caches.clear()

    @property
    def longest(self) -> int:
        return self.context_window

    def extend(self, sequence: Request, tokens: int) -> bool:
        return True

    def admit(self, sequence: Request, *, reuse: bool) -> int:
        self._caches[sequence] = None
        return 0

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        return torch.cat([self._compute(chunk) for chunk in chunks]).cpu().numpy()

    def _compute(self, chunk: Chunk) -> Tensor:
        """The wanted logits (N, V) of a chunk, float32."""
        sequence = chunk.sequence
        cache = self._caches[sequence]
        start = chunk.start if cache is not None else 0  # without one, what came before is computed again
        ids = torch.tensor([sequence.tokens[start : chunk.stop]], device=self._device)
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True} if self._takes_cache else {}
        output = self._model(input_ids=ids, **options)
        self._caches[sequence] = getattr(output, "past_key_values", None)
        wanted = {"none": 0, "last": 1, "all": chunk.stop - chunk.start}[chunk.logits]
        logits: Tensor = output.logits[0]
        return logits[len(logits) - wanted :].float()

    def release(self, sequence: Request) -> None:
        self._caches.pop(sequence, None)

    def close(self) -> None:
        self._caches.clear()

    def stats(self) -> dict[str, float]:
        return {"rows": float(self._max_rows), "rows_held": float(len(self._caches))}
