"""Keys and values of the tokens already seen: what a decoder asks of a cache, and the plainest one.

Letters in shapes as in `platen.models.arch.decoder`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from platen.models.arch.config import DecoderConfig


class Cache(Protocol):
    """One pair of tensors a layer."""

    @property
    def length(self) -> int:
        """Tokens held before this forward pass, in the longest row."""
        ...

    @property
    def ragged(self) -> bool:
        """Whether rows hold different numbers of tokens; a new one attends to all before it in its row."""
        ...

    @property
    def sequence_length(self) -> int:
        """Tokens that the rows are known to get, if more than are held: LongRoPE's factors depend on it."""
        ...

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new (B, K, T, D) keys and values; return all of them, (B, K, S, D)."""
        ...

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's keys and values (B, K, capacity, D), and where each row's new tokens go, (B) int64."""
        ...

    def advance(self, tokens: int) -> None:
        """Called once when a forward pass is over: `tokens` more are held in every layer."""
        ...


class KVCache:
    """A preallocated cache whose rows all hold the same number of tokens (left-pad shorter prompts).

    `data` is all of it, (2, layers, B, K, capacity, D): keys, then values.
    """

    def __init__(
        self,
        config: DecoderConfig,
        batch_size: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        sequence_length: int = 0,
    ) -> None:
        shape = (batch_size, config.num_key_value_heads, capacity, config.head_dim)
        self.data = torch.empty((2, config.num_hidden_layers, *shape), dtype=dtype, device=device)
        self._keys, self._values = list(self.data[0]), list(self.data[1])
        self.capacity = capacity
        self.length = 0
        self.sequence_length = sequence_length

    @property
    def ragged(self) -> bool:
        return False

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        self._check_room(tokens)
        held = self._keys[layer]
        return held, self._values[layer], torch.full((held.shape[0],), self.length, device=held.device)

    def _check_room(self, tokens: int) -> None:
        end = self.length + tokens
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {end} are needed")

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, K, T, D) after what is held; return views of all, (B, K, S, D)."""
        self._check_room(keys.shape[2])
        end = self.length + keys.shape[2]
        held_keys, held_values = self._keys[layer], self._values[layer]
        held_keys[:, :, self.length : end] = keys
        held_values[:, :, self.length : end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens
