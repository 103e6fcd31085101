"""Runs a decoder in PyTorch: contiguous cache rows for decoding, blocks for prefix reuse.

Attention over contiguous rows needs no gathering, which on CPUs costs as much memory traffic as the attention
itself. Keys and values of prompts are copied into blocks, from which later prompts that begin alike are
filled. Letters in shapes as in `platen.models.arch.decoder`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from platen.engines.batching.blocks import ROOT, BlockPool, Key
from platen.engines.batching.kv_budget import check_smallest
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence as Request
from platen.engines.torch.cache import BatchCache
from platen.engines.torch.cpu.packed import BFloat16Linear, Float16Linear
from platen.engines.torch.lora import AdapterSet
from platen.models.arch.cache import KVCache
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder

REUSE_BYTES = 256 * 2**20
"""Most memory for past prompts' keys and values."""

MIN_TOKENS = 256
"""Of the shortest sequence that the cache must have room for."""

PREFILL_MULTIPLE = 16
"""Prefill chunks are padded to multiples of this. For each new number of rows oneDNN makes kernels, half a
megabyte and half a millisecond for every shape of weights: prompts of many lengths would fill hundreds of
megabytes with them, and fragment memory when they are dropped."""

SHORT = 64
"""Tokens up to which 16-bit layers, which are not oneDNN's, get no padding."""


RECOMPUTE_STEP = 512
"""Tokens of a step where keys are recomputed."""


def divided(cache_bytes: int, config: DecoderConfig, dtype: torch.dtype) -> tuple[int, int]:
    """How many tokens a cache of so many bytes holds beside its block store, and the bytes of that.

    Raises BundleError when a short sequence does not fit.
    """
    heads = config.num_hidden_layers * config.num_key_value_heads
    token_bytes = 2 * heads * config.head_dim * dtype.itemsize
    reuse_bytes = min(REUSE_BYTES, cache_bytes // 4)
    cells = (cache_bytes - reuse_bytes) // token_bytes
    needed = min(MIN_TOKENS, config.max_position_embeddings)
    check_smallest("torch", cache_bytes, needed * token_bytes, cells < needed)
    return cells, reuse_bytes


class BlockStore:
    """Keys and values of past prompts in blocks of 16 tokens, at most `max_bytes` of them."""

    BLOCK_TOKENS = 16

    def __init__(
        self, config: DecoderConfig, max_bytes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads, size, layers = config.num_key_value_heads, config.head_dim, config.num_hidden_layers
        block_bytes = 2 * layers * heads * size * self.BLOCK_TOKENS * dtype.itemsize
        # Pages that are never written take no memory, so a large store costs a small model nothing.
        self.pool = BlockPool(max_bytes // block_bytes, self.BLOCK_TOKENS)
        shape = (self.pool.size, 2, layers, heads, self.BLOCK_TOKENS, size)
        self._data = torch.empty(shape, dtype=dtype, device=device)

    def load(self, blocks: list[int], cache: KVCache) -> None:
        """Fill the beginning of a one-row cache."""
        for block, slot in zip(blocks, self._slots(0), strict=False):
            cache.data[:, :, 0, :, slot] = self._data[block]
        cache.length = len(blocks) * self.BLOCK_TOKENS

    def save(self, tokens: Sequence[int], data: Tensor, root: Key) -> None:
        """Keep the full blocks of a sequence whose keys and values are `data`, (2, layers, K, S, D)."""
        known = self.pool.match(tokens, root)
        self.pool.hold(known)  # or making room for the end could drop the beginning
        fresh = self.pool.take(len(tokens) // self.BLOCK_TOKENS - len(known))
        if fresh:
            for block, slot in zip(fresh, self._slots(len(known)), strict=False):
                self._data[block] = data[:, :, :, slot]
            self.pool.name([*known, *fresh], tokens, root)
        self.pool.release([*known, *(fresh or [])])

    def _slots(self, block: int) -> Iterator[slice]:
        """The tokens of each block of a sequence, from one on."""
        return (slice(i * self.BLOCK_TOKENS, (i + 1) * self.BLOCK_TOKENS) for i in itertools.count(block))


class TorchRunner:
    """A model, the caches of prompts in prefill, the batch cache of decoding rows, and the block store."""

    name = "torch"

    def __init__(self, model: Decoder, *, max_rows: int, cache_bytes: int) -> None:
        """`cache_bytes` bounds keys and values of what runs and, a quarter of it at most, of past prompts.

        All rows have the capacity of the longest. Raises BundleError when a short sequence does not fit.
        """
        self._model = model.eval()
        self._device, self._dtype = model.model.embed_tokens.weight.device, model.dtype
        self.context_window = model.config.max_position_embeddings
        self.vocab_size = model.config.vocab_size
        self.adapters = AdapterSet(self._model)
        half = any(isinstance(module, Float16Linear | BFloat16Linear) for module in model.modules())
        self._short = SHORT if half else PREFILL_MULTIPLE
        self.kv_bytes, self._max_rows = cache_bytes, max_rows
        self._cells, self._reuse_bytes = divided(cache_bytes, model.config, self._dtype)
        scaling = model.config.rope_scaling
        self._original = (
            scaling.original_max_position_embeddings if scaling and scaling.short_factors else None
        )
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        config = self._model.config
        self._prompts: dict[Request, KVCache] = {}
        self._rows: list[Request] = []
        self._batch = BatchCache(
            config, max_rows=self._max_rows, cells=self._cells, dtype=self._dtype, device=self._device
        )
        self._store = BlockStore(config, self._reuse_bytes, self._dtype, self._device)
        self._reused = 0
        self._shorter: set[Request] = set()
        """LongRoPE: sequences whose keys are rotated with the short factors."""

    @property
    def longest(self) -> int:
        return min(self.context_window, self._cells)

    def extend(self, sequence: Request, tokens: int) -> bool:
        others = [row for row in (*self._rows, *self._prompts) if row is not sequence]
        return self._has_room(tokens, others)

    def _has_room(self, tokens: int, others: Sequence[Request]) -> bool:
        """Whether the cache can grow to rows of so many tokens, with a prompt's own cache beside it."""
        longest = max(tokens, *(other.reserved for other in others), 0)
        return longest * (len(others) + 2 if others else 1) <= self._cells

    @torch.inference_mode()
    def admit(self, sequence: Request, *, reuse: bool) -> int | None:
        if not self._has_room(sequence.reserved, [*self._rows, *self._prompts]):
            return None
        room = min(
            _rounded(max(sequence.prompt_length + PREFILL_MULTIPLE - 1, sequence.reserved)),
            self.context_window,
        )
        cache = self._cache(room, sequence.prompt_length)
        self._prompts[sequence] = cache
        if self._original is not None and sequence.prompt_length <= self._original:
            self._shorter.add(sequence)
        if reuse and (blocks := self._store.pool.match(sequence.tokens[:-1], self._root(sequence))):
            self._store.load(blocks, cache)
            self._store.pool.hold(blocks)  # used just now: evicted last
            self._store.pool.release(blocks)
            self._reused += cache.length
        return cache.length

    def _cache(self, capacity: int, sequence_length: int) -> KVCache:
        config, dtype = self._model.config, self._dtype
        return KVCache(config, 1, capacity, dtype=dtype, device=self._device, sequence_length=sequence_length)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        found: list[Tensor] = []
        if decoding := {chunk.sequence: chunk for chunk in chunks if chunk.decodes}:
            found.append(self._decode(decoding))
        found += [self._prefill(chunk) for chunk in chunks if not chunk.decodes]
        logits = found[0] if len(found) == 1 else torch.cat(found)
        return logits.float().cpu().numpy()

    def _decode(self, chunks: Mapping[Request, Chunk]) -> Tensor:
        """The newest token and the draft tokens of every row: logits (N, V) in the chunks' order."""
        new = 1 + max(len(chunk.draft) for chunk in chunks.values())
        # Shorter drafts are padded at the end, to which nothing attends.
        newest = [[s.tokens[-1], *chunks[s].draft] for s in self._rows]
        ids = torch.tensor([row + [0] * (new - len(row)) for row in newest], device=self._device)
        self._batch.rewind([sequence.computed for sequence in self._rows])
        for row, sequence in enumerate(self._rows):
            if sequence in self._shorter and sequence.computed >= (self._original or 0):
                self._recompute_keys(row, sequence)
        positions, mask = self._batch.begin_step(new)
        with self.adapters.decoding([sequence.adapter for sequence in self._rows]):
            hidden = self._model.hidden_states(
                ids, position_ids=positions, attention_mask=mask, kv_cache=self._batch
            )
        slot = {sequence: new * row for row, sequence in enumerate(self._rows)}
        wanted = [slot[chunk.sequence] + index for chunk in chunks.values() for index in range(chunk.rows)]
        return self._model.logits(hidden.flatten(0, 1)[torch.tensor(wanted, device=self._device)])

    def _recompute_keys(self, row: int, sequence: Request) -> None:
        """Recompute the keys of a sequence that has outgrown LongRoPE's short factors."""
        tokens = sequence.tokens[: sequence.computed]
        cache = self._cache(len(tokens), len(tokens) + 1)
        with self.adapters.prefilling(sequence.adapter):
            for start in range(0, len(tokens), RECOMPUTE_STEP):
                ids = torch.tensor([tokens[start : start + RECOMPUTE_STEP]], device=self._device)
                self._model.hidden_states(ids, kv_cache=cache)
        self._batch.replace(row, cache)
        self._shorter.discard(sequence)

    def _prefill(self, chunk: Chunk) -> Tensor:
        """One chunk of a prompt; its logits (N, V). After the last chunk the sequence gets a batch row."""
        sequence, cache = chunk.sequence, self._prompts[chunk.sequence]
        tokens = sequence.tokens[chunk.start : chunk.stop]
        # Padded at the end, to which nothing attends; the next chunk overwrites it.
        filled = len(tokens) if len(tokens) <= self._short else _rounded(len(tokens))
        filled = min(filled, cache.capacity - chunk.start)
        ids = torch.tensor([tokens + [0] * (filled - len(tokens))], device=self._device)
        with self.adapters.prefilling(sequence.adapter):
            hidden = self._model.hidden_states(ids, kv_cache=cache)
        cache.length = chunk.stop
        wanted = {"all": slice(len(tokens)), "last": slice(len(tokens) - 1, len(tokens)), "none": slice(0)}
        logits: Tensor = self._model.logits(hidden[:, wanted[chunk.logits]])[0]
        if chunk.stop == sequence.prompt_length:
            del self._prompts[sequence]
            self._batch.add(cache)
            self._rows.append(sequence)
            self._store.save(sequence.tokens, cache.data[:, :, 0], self._root(sequence))
        return logits

    @torch.inference_mode()
    def release(self, sequence: Request) -> None:
        self._prompts.pop(sequence, None)
        if sequence not in self._rows:
            self._shorter.discard(sequence)
            return
        row = self._rows.index(sequence)
        computed = sequence.tokens[: sequence.computed]
        if len(computed) // BlockStore.BLOCK_TOKENS > sequence.prompt_length // BlockStore.BLOCK_TOKENS:
            self._store.save(computed, self._batch.row(row), self._root(sequence))
        self._batch.remove(row)
        self._rows[row] = self._rows[-1]
        self._rows.pop()
        self._shorter.discard(sequence)

    def _root(self, sequence: Request) -> Key:
        """Keeps apart blocks whose tokens are the same but whose keys are not."""
        root = ROOT if sequence.adapter is None else sequence.adapter.fingerprint.encode()
        is_long = self._original is not None and sequence not in self._shorter
        return root + b"long" if is_long else root

    def close(self) -> None:
        self._prompts.clear()
        self._rows.clear()
        self.adapters.keep([])

    def stats(self) -> dict[str, float]:
        return {
            "cache_bytes": float(self._batch.size_bytes),
            "rows": float(self._max_rows),
            "rows_held": float(len(self._prompts) + len(self._rows)),
            "blocks": float(self._store.pool.size),
            "blocks_held": float(self._store.pool.held),
            "reused_tokens": float(self._reused),
            "adapter_bytes": float(self.adapters.size_bytes),
        }


def _rounded(tokens: int) -> int:
    """Up to a multiple of PREFILL_MULTIPLE."""
    return -(-tokens // PREFILL_MULTIPLE) * PREFILL_MULTIPLE
