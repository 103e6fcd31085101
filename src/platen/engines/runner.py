"""Runs the model for the engine: reads prompts piece by piece and writes one token for every row.

Tensors stay on this side; scheduler and engine see token ids and log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from platen.engines.batch_cache import BatchCache
from platen.engines.sampling import LogprobRow, logprobs_of, sample
from platen.engines.scheduler import PrefillChunk
from platen.engines.scheduler import Sequence as Running
from platen.models.llama import KVCache, Llama


@dataclass(frozen=True)
class NextToken:
    """What one row got: the token and, when asked for, its log-probability."""

    token_id: int
    logprob: LogprobRow | None


class ModelRunner:
    """A model, the cache of the prompt being read and the cache of the rows being written."""

    def __init__(self, model: Llama, *, max_rows: int) -> None:
        weight = model.output_weight
        self._model = model.eval()
        self._device, self._dtype = weight.device, weight.dtype
        self._prompt: KVCache | None = None
        self._prompt_logprobs: list[LogprobRow] = []
        self._max_rows = max_rows
        self.reset()

    def reset(self) -> None:
        """Forget every sequence."""
        self._prompt = None
        self.batch = BatchCache(
            self._model.config, max_rows=self._max_rows, dtype=self._dtype, device=self._device
        )

    def prefill(self, chunk: PrefillChunk) -> NextToken | None:
        """Read a part of a prompt. After the last part the sequence has a row and its first new token."""
        sequence = chunk.sequence
        if chunk.first or self._prompt is None:
            self._prompt = KVCache(
                self._model.config, 1, sequence.prompt_length, dtype=self._dtype, device=self._device
            )
            self._prompt_logprobs = []
        ids = torch.tensor([sequence.tokens[chunk.start : chunk.stop]], device=self._device)
        wanted = sequence.request.prompt_logprobs
        keep = 0 if wanted is not None else 1
        logits = self._model(ids, kv_cache=self._prompt, logits_to_keep=keep)[0]
        if wanted is not None:
            following = sequence.tokens[chunk.start + 1 : chunk.stop + 1]
            self._prompt_logprobs += logprobs_of(logits[: len(following)], following, wanted)
        if not chunk.last:
            return None
        self.batch.add(self._prompt)
        self._prompt = None
        return self._choose(logits[-1:], [sequence])[0]

    def take_prompt_logprobs(self) -> list[LogprobRow]:
        """Log-probabilities of the last read prompt's tokens from the second on, if they were asked for."""
        rows, self._prompt_logprobs = self._prompt_logprobs, []
        return rows

    def decode(self, running: Sequence[Running]) -> list[NextToken]:
        """Write one token in every row, in the order of the batch cache's rows."""
        ids = torch.tensor([[s.tokens[-1]] for s in running], device=self._device)
        positions, mask = self.batch.begin_step()
        logits = self._model(ids, position_ids=positions, attention_mask=mask, kv_cache=self.batch)[:, -1]
        return self._choose(logits, running)

    def _choose(self, logits: Tensor, sequences: Sequence[Running]) -> list[NextToken]:
        params = [s.request.sampling for s in sequences]
        uniforms = [s.random.uniform() for s in sequences]
        chosen = sample(logits.float(), params, uniforms)
        rows: list[LogprobRow | None] = [None] * len(chosen)
        for row, wanted in enumerate(p.logprobs for p in params):
            if wanted is not None:
                rows[row] = logprobs_of(logits[row : row + 1], chosen[row : row + 1], wanted)[0]
        return [NextToken(token_id, row) for token_id, row in zip(chosen, rows, strict=True)]
