"""Keys and values of several sequences of different lengths, one row each, for batched decoding.

Rows are packed from 0 and start at position 0, so every row's numbers are the same whatever else is in the
batch; room grows as needed, in tokens and in rows. Letters in shapes: B rows, K key/value heads, S tokens,
D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from platen.models.config import LlamaConfig
from platen.models.llama import KVCache


class BatchCache:
    """A `models.llama.Cache` whose rows each hold their own number of tokens; it takes one token a row.

    Keys and values are tensors (B, K, S, D) a layer.
    """

    TOKEN_BLOCK = 64

    def __init__(
        self, config: LlamaConfig, *, max_rows: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._layers = config.num_hidden_layers
        self._heads = config.num_key_value_heads
        self._head_dim = config.head_dim
        self._window = config.max_position_embeddings
        self._max_rows = max_rows
        self._dtype, self._device = dtype, device
        self.lengths: list[int] = []
        self._room = (0, 0)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rows = torch.empty(0, dtype=torch.long)
        self._at = torch.empty(0, dtype=torch.long)
        self._span = 0

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def size_bytes(self) -> int:
        """Memory held, used or not."""
        return sum(t.numel() * t.element_size() for t in [*self._keys, *self._values])

    def add(self, sequence: KVCache) -> None:
        """Copy a one-row cache, a read prompt, into a new last row."""
        row, length = len(self.lengths), sequence.length
        self._make_room(row + 1, length)
        for layer in range(self._layers):
            self._keys[layer][row, :, :length] = sequence.keys[layer][0, :, :length]
            self._values[layer][row, :, :length] = sequence.values[layer][0, :, :length]
        self.lengths.append(length)

    def row(self, row: int) -> list[Tensor]:
        """Views of a row's keys, then its values, (K, S, D) a layer."""
        length = self.lengths[row]
        return [tensor[row, :, :length] for tensor in [*self._keys, *self._values]]

    def remove(self, row: int) -> None:
        """Drop a row; the last row moves into its place. An empty cache gives its memory back."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for tensor in [*self._keys, *self._values]:
                tensor[row, :, :length] = tensor[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self._keys, self._values, self._room = [], [], (0, 0)

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """Make room for one more token in every row.

        Returns the new tokens' positions (B, 1) and the attention mask (B, S) over old and new tokens.
        """
        self._make_room(len(self.lengths), self.length + 1)
        self._at = torch.tensor(self.lengths, device=self._device)
        self._rows = torch.arange(len(self.lengths), device=self._device)
        self._span = self.length + 1
        mask = torch.arange(self._span, device=self._device)[None, :] <= self._at[:, None]
        return self._at[:, None], mask

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write each row's new key and value (B, K, 1, D) at its own position; return views (B, K, S, D)."""
        held_keys, held_values = self._keys[layer], self._values[layer]
        held_keys[self._rows, :, self._at] = keys[:, :, 0]
        held_values[self._rows, :, self._at] = values[:, :, 0]
        rows = len(self.lengths)
        return held_keys[:rows, :, : self._span], held_values[:rows, :, : self._span]

    def advance(self, tokens: int) -> None:
        self.lengths = [length + tokens for length in self.lengths]

    def _make_room(self, rows: int, tokens: int) -> None:
        have_rows, have_tokens = self._room
        if rows <= have_rows and tokens <= have_tokens:
            return
        if rows > have_rows:
            have_rows = min(max(rows, 2 * have_rows), self._max_rows)
        if tokens > have_tokens:
            blocks = -(-max(tokens, have_tokens * 3 // 2) // self.TOKEN_BLOCK)
            have_tokens = min(blocks * self.TOKEN_BLOCK, self._window)
        self._room = (have_rows, have_tokens)
        self._keys = self._grown(self._keys)
        self._values = self._grown(self._values)

    def _grown(self, old: list[Tensor]) -> list[Tensor]:
        rows, tokens = self._room
        shape = (rows, self._heads, tokens, self._head_dim)
        # Zeros, not empty: what is masked must still be a number, or it would poison the softmax.
        new = [torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(self._layers)]
        for target, source in zip(new, old, strict=False):
            target[: source.shape[0], :, : source.shape[2]] = source
        return new
