"""Keys and values of several sequences of different lengths, one row each, for batched decoding.

Rows in use come first and start at position 0, so a row's numbers do not depend on the rest of the batch. The
cache grows as needed, in tokens and in rows. Letters in shapes: B rows, K key/value heads, S tokens,
D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from platen.models.arch.cache import KVCache
from platen.models.arch.config import DecoderConfig


class BatchCache:
    """A `Cache` whose rows hold different numbers of tokens; a step adds equally many to each.

    All lie in one tensor, (2, layers, B, K, S, D): keys, then values.
    """

    TOKEN_BLOCK = 64
    ADOPTED_BYTES = 64 * 2**20
    """A larger cache of a prompt becomes the batch's own when it is alone: a copy would double its memory."""
    KEPT_BYTES = 256 * 2**20
    """Memory that an empty cache keeps: allocating it again takes as long as half a prefill."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        max_rows: int,
        cells: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """It grows ahead of what is needed, up to `cells` tokens over all rows."""
        self._cells = cells
        self._layers = config.num_hidden_layers
        self._heads = config.num_key_value_heads
        self._head_dim = config.head_dim
        self._window = config.max_position_embeddings
        self._max_rows = max_rows
        self._dtype, self._device = dtype, device
        self.lengths: list[int] = []
        self._data: Tensor
        self._clear()
        self._at = self._starts = torch.empty(0, dtype=torch.long)
        self._span = 0

    @property
    def length(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def size_bytes(self) -> int:
        """Memory allocated, used or not."""
        return self._data.nbytes

    def add(self, sequence: KVCache) -> None:
        """Add a prefilled prompt's cache, of one row, as the last row."""
        row, length = len(self.lengths), sequence.length
        if row == 0 and sequence.data.nbytes > max(self.size_bytes, self.ADOPTED_BYTES):
            self._hold(sequence.data)
        else:
            self._make_room(row + 1, length)
            self._data[:, :, row, :, :length] = sequence.data[:, :, 0, :, :length]
        self.lengths.append(length)

    def replace(self, row: int, sequence: KVCache) -> None:
        """Replace a row by a one-row cache of as many tokens."""
        self._data[:, :, row, :, : sequence.length] = sequence.data[:, :, 0, :, : sequence.length]

    def row(self, row: int) -> Tensor:
        """A view of a row's keys and values, (2, layers, K, S, D)."""
        return self._data[:, :, row, :, : self.lengths[row]]

    def remove(self, row: int) -> None:
        """Drop a row; the last row moves to its index. An empty cache frees most of its memory."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[row] = self.lengths[last]
            self._data[:, :, row, :, :length] = self._data[:, :, last, :, :length]
        self.lengths.pop()
        if not self.lengths and self.size_bytes > self.KEPT_BYTES:
            self._clear()

    def begin_step(self, new: int = 1) -> tuple[Tensor, Tensor]:
        """Make room for `new` more tokens (T) in every row, which `rewind` may take back.

        Returns the new tokens' positions (B, T) and which old and new tokens each attends to (B, T, S).
        Padding may pass the end of the context window: its positions are the window's last.
        """
        self._make_room(len(self.lengths), self.length + new)
        rows, tokens = len(self.lengths), self._room[1]
        self._starts = torch.tensor(self.lengths, device=self._device)
        lengths = self._starts[:, None]
        positions = lengths + torch.arange(new, device=self._device)
        # Where each row's head begins, counted in tokens of D numbers, plus the new tokens' positions.
        heads = torch.arange(rows * self._heads, device=self._device).view(rows, -1, 1) * tokens
        self._at = (heads + positions[:, None]).flatten()
        self._span = self.length + new
        mask = torch.arange(self._span, device=self._device) <= positions[:, :, None]
        return positions.clamp(max=self._window - 1), mask

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store each row's new (B, K, T, D) at its own positions; return views of all, (B, K, S, D)."""
        held_keys, held_values = self._keys[layer], self._values[layer]
        size = self._head_dim
        held_keys.view(-1, size).index_copy_(0, self._at, keys.reshape(-1, size))
        held_values.view(-1, size).index_copy_(0, self._at, values.reshape(-1, size))
        rows = len(self.lengths)
        return held_keys[:rows, :, : self._span], held_values[:rows, :, : self._span]

    @property
    def sequence_length(self) -> int:
        return 0

    @property
    def ragged(self) -> bool:
        return True

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows in use; `begin_step` has made room."""
        rows = len(self.lengths)
        return self._keys[layer][:rows], self._values[layer][:rows], self._starts

    def advance(self, tokens: int) -> None:
        self.lengths = [length + tokens for length in self.lengths]

    def rewind(self, lengths: list[int]) -> None:
        """Truncate each row to so many tokens; the next step overwrites the others."""
        self.lengths = lengths

    def _make_room(self, rows: int, tokens: int) -> None:
        have_rows, have_tokens = self._room
        if rows <= have_rows and tokens <= have_tokens:
            return
        more_rows, more_tokens = max(rows, have_rows), max(tokens, have_tokens)
        if rows > have_rows:
            more_rows = min(max(rows, 2 * have_rows), self._max_rows)
        if tokens > have_tokens:
            blocks = -(-max(tokens, have_tokens * 3 // 2) // self.TOKEN_BLOCK)
            more_tokens = max(tokens, min(blocks * self.TOKEN_BLOCK, self._window))
        if more_rows * more_tokens > self._cells:
            more_rows, more_tokens = (
                rows,
                tokens + min(self.TOKEN_BLOCK, max(0, self._cells // rows - tokens)),
            )
        self._grow(more_rows, more_tokens)

    def _clear(self) -> None:
        self._grow(0, 0)

    def _grow(self, rows: int, tokens: int) -> None:
        """Make room for so many rows of so many tokens, and copy what is held."""
        shape = (2, self._layers, rows, self._heads, tokens, self._head_dim)
        # Zeros, not empty: what is masked must still be a number, or it would poison the softmax.
        data = torch.zeros(shape, dtype=self._dtype, device=self._device)
        if self.lengths:
            held = len(self.lengths), self.length
            data[:, :, : held[0], :, : held[1]] = self._data[:, :, : held[0], :, : held[1]]
        self._hold(data)

    def _hold(self, data: Tensor) -> None:
        self._room, self._data = (data.shape[2], data.shape[4]), data
        self._keys, self._values = list(data[0]), list(data[1])
