"""Runs networks without a key/value cache: the last window of tokens is computed again for each new one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence as Request
from platen.models.ladder import Baseline


class WindowRunner:
    """A ladder model. Sequences may grow beyond its window: it is shown their last tokens."""

    name = "ladder"
    adapters = None
    kv_bytes = 0
    context_window = sys.maxsize

    def __init__(self, baseline: Baseline) -> None:
        self._model = baseline.model
        self._device = next(baseline.model.parameters()).device
        self._window = baseline.config.max_position_embeddings
        self.vocab_size = baseline.config.vocab_size
        self._held = 0

    def reset(self) -> None:
        self._held = 0

    @property
    def longest(self) -> int:
        return self.context_window

    def extend(self, sequence: Request, tokens: int) -> bool:
        return True

    def admit(self, sequence: Request, *, reuse: bool) -> int:
        self._held += 1
        return 0

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        return torch.cat([self._compute(chunk) for chunk in chunks]).float().cpu().numpy()

    def _compute(self, chunk: Chunk) -> Tensor:
        """The wanted logits (N, V) of a chunk. Of positions before the window there are none."""
        shown = chunk.sequence.tokens[max(0, chunk.stop - self._window) : chunk.stop]
        if chunk.rows == 0:
            return torch.empty(0, self.vocab_size, device=self._device)
        ids = torch.tensor([shown], device=self._device)
        logits: Tensor = self._model(ids, logits_to_keep=chunk.rows)
        return logits[0]

    def release(self, sequence: Request) -> None:
        self._held -= 1

    def close(self) -> None:
        self._held = 0

    def stats(self) -> dict[str, float]:
        return {"rows_held": float(self._held)}
