"""Runs a GGUF file with llama.cpp for a batching engine: all sequences' tokens in one `llama_decode`.

The cache has a number of places, each with room for a whole context window; attention reads a sequence's own
place alone. The text of a sequence that is over is kept until its place is needed, and a new one that begins
alike goes on from a copy (`platen.engines.llamacpp.slots`).
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
import torch
from torch import Tensor

from platen.core.cpu import features
from platen.core.errors import BundleError
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sequence import Sequence as Request
from platen.engines.llamacpp.matmul import load_products
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


class _Batch:
    """llama.cpp's batch over arrays of our own, so that it is filled a part at a time."""

    def __init__(self, size: int) -> None:
        import llama_cpp

        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._slots, self._counts = np.zeros(size, np.int32), np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        first = self._slots.ctypes.data  # each token's list of places has one entry
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
        """Make it these parts; returns of how many tokens the logits are wanted."""
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
    """One GGUF file on the CPU, with `places` for sequences; a step computes `step_tokens` at most."""

    name = "llamacpp"
    adapters = None

    def __init__(
        self,
        file: Path,
        *,
        context_window: int,
        slots: int,
        step_tokens: int,
    ) -> None:
        load_products()
        import llama_cpp

        self._lib: Any = llama_cpp
        errors = _quiet()
        errors.clear()
        llama_cpp.llama_backend_init()
        self._model = on_passing_thread(
            lambda: llama_cpp.llama_model_load_from_file(
                str(file).encode(), llama_cpp.llama_model_default_params()
            )
        )
        if not self._model:
            reason = errors[0] if errors else "it does not say why"
            raise BundleError(f"llama.cpp can't open {file}: {reason}", hint="Compile the bundle again.")
        self.context_window = context_window
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        slots = min(slots, int(llama_cpp.llama_max_parallel_sequences()))
        self._slots = Slots(slots)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max = slots * context_window, slots
        options.kv_unified, options.flash_attn_type = False, self._attention(min(step_tokens, 512))
        options.n_batch, options.n_ubatch, options.no_perf = step_tokens, min(step_tokens, 512), True
        options.n_threads = options.n_threads_batch = _physical_cores()
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise BundleError(
                f"{file}: no memory for a cache of {slots} windows", hint="Serve fewer at once."
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = _Batch(step_tokens)
        self.reset()

    def _attention(self, rows: int) -> int:
        """Flash attention, or plain where that is faster and its scores of `rows` tokens fit into memory.

        Caches are float16. Where the processor multiplies that as it is, plain attention writes a third
        faster; where it doesn't, flash attention reads a sixth faster and writes eight texts at once a fifth.
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

    def fits(self, tokens: int) -> bool:
        return tokens <= self.context_window

    def admit(self, sequence: Request, *, reuse: bool) -> int | None:
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

    def _copy(self, source: int, slot: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, slot, -1, -1)

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        ordered = sorted(chunks, key=lambda chunk: self._slots[chunk.sequence])
        rows = self._batch.fill(ordered, self._slots)
        if (code := self._lib.llama_decode(self._context, self._batch.struct)) != 0:
            raise RuntimeError(f"llama_decode answered {code}")
        if rows == 0:
            return torch.empty(0, self.vocab_size)
        # llama.cpp's own buffer, in the batch's order; it holds until the next step.
        address = ctypes.addressof(self._lib.llama_get_logits(self._context).contents)
        buffer = (ctypes.c_float * (rows * self.vocab_size)).from_address(address)
        logits = torch.frombuffer(buffer, dtype=torch.float32).view(rows, self.vocab_size)
        if ordered == list(chunks):
            return logits
        pieces, at = {}, 0
        for chunk in ordered:
            pieces[chunk.sequence] = logits[at : at + chunk.rows]
            at += chunk.rows
        return torch.cat([pieces[chunk.sequence] for chunk in chunks])

    def release(self, sequence: Request) -> None:
        self._slots.release(sequence)

    def stats(self) -> dict[str, float]:
        return {
            "places": float(self._slots.count),
            "places_held": float(len(self._slots)),
            "reused_tokens": float(self._reused),
        }

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)
