"""Runs a GGUF file with llama.cpp for a batching engine: all sequences' tokens in one `llama_decode`.

The cache has slots of equal size, and a sequence attends to its own slot alone. A finished sequence stays
until its slot is needed, and a new one that begins alike continues from a copy
(`platen.engines.llamacpp.slots`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from platen.core.cpu import features
from platen.core.errors import BundleError
from platen.engines.batching.kv_budget import check_smallest
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence as Request
from platen.engines.llamacpp.matmul import load_matmul
from platen.engines.llamacpp.shapes import MIN_CELLS, CacheShape, CacheShapes
from platen.engines.llamacpp.slots import Slots
from platen.engines.threads import on_passing_thread


def _physical_cores() -> int:
    """Cores to compute on; more threads than these slow llama.cpp down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


@cache
def _quiet() -> list[str]:
    """Silence llama.cpp's log for the whole process; the first errors are kept in the list."""
    import llama_cpp

    errors: list[str] = []

    def remember(level: int, text: bytes, _: object) -> None:
        if level == _LOG_ERROR and len(errors) < 5:
            errors.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(remember)
    _CALLBACKS.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    return errors


_CALLBACKS: list[object] = []  # llama.cpp calls them for as long as the process lives
_LOG_ERROR = 4
_MOST_SCORES_BYTES = 256 * 2**20


def _metadata(lib: Any, model: Any, name: str) -> str | None:
    """The file's own value of a key that begins with its architecture's name."""
    buffer = ctypes.create_string_buffer(256)
    length = lib.llama_model_meta_val_str(model, b"general.architecture", buffer, len(buffer))
    key = f"{buffer.value.decode()}.{name}".encode() if length > 0 else name.encode()
    found = lib.llama_model_meta_val_str(model, key, buffer, len(buffer)) > 0
    return buffer.value.decode() if found else None


class _Batch:
    """llama.cpp's batch over NumPy arrays, so that it is filled a chunk at a time."""

    def __init__(self, size: int) -> None:
        import llama_cpp

        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._slots, self._counts = np.zeros(size, np.int32), np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        first = self._slots.ctypes.data  # each token's list of slots has one entry
        self._lists = first + np.arange(size, dtype=np.uintp) * self._slots.itemsize
        fields: dict[str, np.ndarray[Any, Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._counts,
            "seq_id": self._lists,
            "logits": self._wanted,
        }
        types: dict[str, Any] = {name: kind for name, kind, *_ in llama_cpp.llama_batch._fields_}
        self.struct = llama_cpp.llama_batch(
            **{name: array.ctypes.data_as(types[name]) for name, array in fields.items()}
        )

    def fill(self, chunks: Sequence[Chunk], slots: Slots) -> int:
        """Fill it with these chunks; returns the number of rows of logits."""
        at = rows = 0
        for chunk in chunks:
            end = at + chunk.stop - chunk.start
            self._tokens[at:end] = chunk.sequence.tokens[chunk.start : chunk.stop]
            self._positions[at:end] = range(chunk.start, chunk.stop)
            self._slots[at:end] = slots[chunk.sequence]
            self._wanted[at:end] = chunk.logits == "all"
            self._wanted[end - 1] = chunk.logits != "none"
            rows += chunk.rows
            at = end
        self.struct.n_tokens = at
        return rows


class LlamaCppRunner:
    """One GGUF file on the CPU for `max_rows` sequences at once; a step computes `step_tokens` at most.

    `cache_bytes` bounds the key/value cache. llama.cpp divides it evenly among a fixed number of slots and
    fills it with zeros when it is made, so it begins small and is made again, larger or divided otherwise,
    when a sequence needs another shape and none runs. Raises BundleError when the file can't be opened, or
    the cache can't hold even a short sequence.
    """

    name = "llamacpp"
    adapters = None

    def __init__(
        self, file: Path, *, context_window: int, max_rows: int, step_tokens: int, cache_bytes: int
    ) -> None:
        load_matmul()
        import llama_cpp

        self._lib: Any = llama_cpp
        errors = _quiet()
        errors.clear()
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False  # weights stay mapped; see `load_matmul`
        self._model = on_passing_thread(
            lambda: llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        )
        if not self._model:
            reason = errors[0] if errors else "it does not say why"
            raise BundleError(f"llama.cpp can't open {file}: {reason}", hint="Compile the bundle again.")
        self.context_window, self._step_tokens = context_window, step_tokens
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        self._shapes = CacheShapes(
            cells=cache_bytes // self._cell_bytes(),
            context_window=context_window,
            max_rows=min(max_rows, int(llama_cpp.llama_max_parallel_sequences()) // 2),
        )
        check_smallest(str(file), cache_bytes, MIN_CELLS * self._cell_bytes(), self._shapes.cells < MIN_CELLS)
        self._batch, self.kv_bytes = _Batch(step_tokens), cache_bytes
        self._context: Any = None
        self._reused = 0
        self._make_cache(self._shapes.first())

    def _cell_bytes(self) -> int:
        """Of one token: keys and values in float16, in every layer."""
        lib, model = self._lib, self._model
        width = lib.llama_model_n_embd(model) // lib.llama_model_n_head(model)
        if (found := _metadata(lib, model, "attention.key_length")) is not None:
            width = int(found)
        return int(4 * lib.llama_model_n_layer(model) * lib.llama_model_n_head_kv(model) * width)

    def _make_cache(self, shape: CacheShape) -> None:
        """Make a new, empty cache in place of the old one."""
        if self._context:
            self._lib.llama_free(self._context)
        options = self._lib.llama_context_default_params()
        options.n_ctx, options.n_seq_max = shape.slots * shape.tokens, shape.slots
        options.kv_unified, options.flash_attn_type = False, self._attention(min(self._step_tokens, 512))
        options.n_batch, options.n_ubatch = self._step_tokens, min(self._step_tokens, 512)
        options.no_perf = True
        options.n_threads = options.n_threads_batch = _physical_cores()
        self._context = self._lib.llama_init_from_model(self._model, options)
        if not self._context:
            raise BundleError(
                f"no memory for a key/value cache of {shape.slots} × {shape.tokens} tokens",
                hint="Allow it less: serve.kv_memory, or --kv-memory.",
            )
        self._memory = self._lib.llama_get_memory(self._context)
        self._shape, self._draining = shape, False
        self._slots = Slots(shape.slots)

    def _attention(self, rows: int) -> int:
        """Flash attention, or plain where that is faster and its scores of `rows` tokens fit into memory.

        Caches are float16. Where the processor multiplies float16, plain attention decodes a third faster.
        Elsewhere flash attention prefills a sixth faster, and decodes eight sequences a fifth faster.
        """
        heads = int(self._lib.llama_model_n_head(self._model))
        fits = 4 * rows * heads * self.context_window <= _MOST_SCORES_BYTES
        if fits and "avx512_fp16" in features():
            return int(self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        return int(self._lib.LLAMA_FLASH_ATTN_TYPE_ENABLED)

    def reset(self) -> None:
        self._lib.llama_memory_clear(self._memory, True)
        self._slots = Slots(self._slots.count)
        self._reused = 0

    @property
    def longest(self) -> int:
        return self._shapes.longest

    def admit(self, sequence: Request, *, reuse: bool) -> int | None:
        shape = self._shapes.for_longest(sequence.reserved)
        too_short = sequence.reserved > self._shape.tokens
        too_few = len(self._slots) == self._slots.count and shape.slots > self._slots.count
        if self._draining or too_short or too_few:
            # Running sequences finish first. None is admitted meanwhile, or the cache would never be free.
            self._draining = len(self._slots) > 0
            if self._draining:
                return None
            if too_short or shape.slots > self._slots.count:
                self._make_cache(shape)
        admission = self._slots.admit(sequence, reuse=reuse)
        if admission is None:
            return None
        slot, source, common = admission.slot, admission.source, admission.common
        if admission.moved_to is not None:
            self._copy(slot, admission.moved_to)
        if source is None:
            self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        else:
            if source != slot:
                self._copy(source, slot)
            self._lib.llama_memory_seq_rm(self._memory, slot, common, -1)
        self._reused += common
        return common

    def extend(self, sequence: Request, tokens: int) -> bool:
        """Where its slot is too short all slots grow, and running sequences move into the new cache.

        Where the budget does not allow as many slots there are fewer, and running sequences are recomputed:
        llama.cpp moves keys and values only between caches of equally many slots.
        """
        if tokens <= self._shape.tokens:
            return True
        if (longer := self._shapes.longer(self._shape, tokens)) is not None:
            self._move_to(longer)
            return True
        running = self._slots.running()
        longest = max(tokens, *(other.reserved for other in running))
        if longest > self.longest:
            return False
        fitting = self._shapes.for_longest(longest)
        if fitting.slots < len(running):
            return False
        self._make_cache(fitting)
        for other in running:
            self._slots.admit(other, reuse=False)
            for start in range(0, other.computed, self._step_tokens):
                stop = min(start + self._step_tokens, other.computed)
                self._decode([Chunk(other, start, stop, "none")])
        return True

    def _move_to(self, shape: CacheShape) -> None:
        """Make a cache of as many slots and copy what they hold."""
        slots = self._slots
        states = {slot: self._state(slot) for slot in slots.held()}
        self._make_cache(shape)
        self._slots = slots
        for slot, state in states.items():
            if not self._lib.llama_state_seq_set_data(self._context, state, len(state), slot):
                raise RuntimeError("llama.cpp can't restore a sequence's keys and values")

    def _state(self, slot: int) -> Any:
        """A copy of the keys and values in a slot."""
        size = self._lib.llama_state_seq_get_size(self._context, slot)
        state = (ctypes.c_uint8 * size)()
        if self._lib.llama_state_seq_get_data(self._context, state, size, slot) != size:
            raise RuntimeError("llama.cpp can't save a sequence's keys and values")
        return state

    def _copy(self, source: int, slot: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, slot, -1, -1)

    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        ordered = sorted(chunks, key=lambda chunk: self._slots[chunk.sequence])
        rows = self._decode(ordered)
        if rows == 0:
            return np.empty((0, self.vocab_size), np.float32)
        # llama.cpp's own buffer, in the batch's order; it holds until the next step.
        shape = (rows, self.vocab_size)
        logits: Floats = np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), shape)
        if ordered == list(chunks):
            return logits
        pieces, at = {}, 0
        for chunk in ordered:
            pieces[chunk.sequence] = logits[at : at + chunk.rows]
            at += chunk.rows
        return np.concatenate([pieces[chunk.sequence] for chunk in chunks])

    def _decode(self, chunks: Sequence[Chunk]) -> int:
        """Compute chunks in the order of their slots; returns the number of rows of logits."""
        rows = self._batch.fill(chunks, self._slots)
        if (code := self._lib.llama_decode(self._context, self._batch.struct)) != 0:
            raise RuntimeError(f"llama_decode answered {code}")
        return rows

    def release(self, sequence: Request) -> None:
        self._slots.release(sequence)

    def stats(self) -> dict[str, float]:
        return {
            "cache_bytes": float(self._shape.slots * self._shape.tokens * self._cell_bytes()),
            "slots": float(self._slots.count),
            "slots_held": float(len(self._slots)),
            "reused_tokens": float(self._reused),
        }

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)
