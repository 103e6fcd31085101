"""Calls `kernels.cpp`: what a decoder layer computes on a CPU where PyTorch is slower.

PyTorch does each norm, rotation and gate as several operations, which for the few rows of a decoding batch
cost more to start than to compute, and attends with kernels made for training. In C++ a decode step of eight
sequences takes two fifths less time, and prefill a tenth less. Without a compiler PyTorch's operations are
used. Letters in shapes as in `platen.models.arch.decoder`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from platen.engines.native import load_native
from platen.models.arch.config import DecoderConfig

HEAD_SIZES = (16, 32, 64, 96, 128, 256)
NO_WINDOW = 2**62
_LANES = 16
_SOURCE = Path(__file__).with_suffix(".cpp")
_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "rms_norm": (_POINTER, _POINTER, _FLOAT, _POINTER, _SIZE, _SIZE),
    "gated": (_POINTER, _POINTER, _SIZE, _SIZE, _SIZE),
    "rotate_and_keep": (
        *(*[_POINTER] * 3, _FLOAT, _POINTER, _POINTER, _SIZE),
        *(*[_POINTER] * 3, _SIZE, _SIZE, _POINTER, *[_SIZE] * 6),
    ),
    "attend": (*[_POINTER] * 3, _SIZE, _SIZE, _POINTER, _POINTER, *[_SIZE] * 5, _FLOAT, _FLOAT, _SIZE),
    "matmul": (*[_POINTER] * 4, *[_SIZE] * 3),
    "attend_prompt": (*[_POINTER] * 3, _SIZE, _SIZE, _POINTER, *[_SIZE] * 4, _FLOAT, _FLOAT, _SIZE),
}


@dataclass(frozen=True)
class Scoring:
    """How scores become weights: times `scale`, then softcap * tanh(score / softcap) unless that is 0.

    A token attends to itself and the `window` - 1 before it.
    """

    scale: float
    softcap: float = 0.0
    window: int = NO_WINDOW


class Kernels:
    """The compiled functions, for contiguous float32 tensors on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library = library

    def matmul(self, x: Tensor, packed: Tensor, outputs: int, added: Tensor | None = None) -> Tensor:
        """x (…, I) times the transpose of a weight from `pack_weight`, (…, O); plus `added` if given."""
        out = x.new_empty((*x.shape[:-1], outputs))
        size = x.shape[-1]
        beside = None if added is None else added.data_ptr()
        self._library.matmul(
            x.data_ptr(), packed.data_ptr(), beside, out.data_ptr(), x.numel() // size, size, outputs
        )
        return out

    def rms_norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        """RMSNorm (Zhang and Sennrich, 2019) of x (…, C) with a gain (C)."""
        out, size = torch.empty_like(x), x.shape[-1]
        self._library.rms_norm(x.data_ptr(), gain.data_ptr(), eps, out.data_ptr(), x.numel() // size, size)
        return out

    def gated(self, gate_up: Tensor, *, gelu: bool = False) -> Tensor:
        """silu(gate) * up, or gelu's tanh formula, (…, I), of both side by side, (…, 2 * I)."""
        size = gate_up.shape[-1] // 2
        out = gate_up.new_empty((*gate_up.shape[:-1], size))
        self._library.gated(gate_up.data_ptr(), out.data_ptr(), out.numel() // size, size, gelu)
        return out

    def rotate_and_keep(
        self,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        keys: Tensor,
        values: Tensor,
        starts: Tensor,
        gains: tuple[Tensor, Tensor] | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Rotate queries and keys; put keys and values into a cache; return the queries, (B, H, T, D).

        qkv (B, T, (H + 2K) * D) has queries, keys and values side by side. Cosines and sines are (T, R), or
        (B, 1, T, R) for rows of different positions; of a head the first R dimensions are rotated. `keys` and
        `values` (B, K, capacity, D) are written from `starts` (B), int64, on. With `gains` (D) each head of
        queries and of keys is normalised first.
        """
        cos, sin = angles or (qkv, qkv)  # of which nothing is read
        rotary_dim = cos.shape[-1] if angles else 0
        query_gain, key_gain = (gain.data_ptr() for gain in gains) if gains else (None, None)
        rows, tokens, width = qkv.shape
        held, size = keys.shape[1], keys.shape[3]
        heads = width // size - 2 * held
        queries = qkv.new_empty((rows, heads, tokens, size))
        self._library.rotate_and_keep(
            qkv.data_ptr(),
            query_gain,
            key_gain,
            eps,
            cos.data_ptr(),
            sin.data_ptr(),
            tokens * rotary_dim if cos.dim() == 4 else 0,
            queries.data_ptr(),
            *_addresses(keys, values, starts),
            rows,
            tokens,
            heads,
            held,
            size,
            rotary_dim,
        )
        return queries

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, starts: Tensor, scoring: Scoring
    ) -> Tensor:
        """Attention of few new tokens, (B, T, H * D): in row b, token t attends to starts[b] + t + 1 keys.

        queries (B, H, T, D), keys and values (B, K, capacity, D) as `rotate_and_keep` leaves them.
        """
        rows, heads, tokens, size = queries.shape
        out = queries.new_empty((rows, tokens, heads * size))
        self._library.attend(
            queries.data_ptr(),
            *_addresses(keys, values, starts),
            out.data_ptr(),
            rows,
            tokens,
            heads,
            keys.shape[1],
            size,
            *_scoring(scoring),
        )
        return out

    def attend_prompt(
        self, queries: Tensor, keys: Tensor, values: Tensor, start: int, scoring: Scoring
    ) -> Tensor:
        """Attention of many new tokens, (B, T, H * D), in rows that all hold `start` tokens before them."""
        rows, heads, tokens, size = queries.shape
        out = queries.new_empty((rows, tokens, heads * size))
        for row in range(rows):
            self._library.attend_prompt(
                queries[row].data_ptr(),
                keys[row].data_ptr(),
                values[row].data_ptr(),
                keys.stride(1),
                start,
                out[row].data_ptr(),
                tokens,
                heads,
                keys.shape[1],
                size,
                *_scoring(scoring),
            )
        return out


def _scoring(scoring: Scoring) -> tuple[float, float, int]:
    return scoring.scale, scoring.softcap, scoring.window


def _addresses(keys: Tensor, values: Tensor, starts: Tensor) -> tuple[int, ...]:
    """A cache's pointers, strides and row lengths, as the functions take them."""
    return keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1), starts.data_ptr()


def pack_weight(weight: Tensor) -> Tensor:
    """A weight (O, I) of bfloat16's values for `Kernels.matmul`: words (O / 32 rounded up, I, 16)."""
    outputs, inputs = weight.shape
    halves = weight.bfloat16()
    if missing := -outputs % (2 * _LANES):
        halves = torch.cat((halves, halves.new_zeros(missing, inputs)))
    # A word's low half is the first of two bytes pairs: one copy, without shifting (little-endian).
    pairs = halves.view(torch.int16).view(-1, 2, _LANES, inputs).permute(0, 3, 2, 1)
    return pairs.contiguous().view(torch.int32).squeeze(-1)


def kernels_for(config: DecoderConfig) -> Kernels | None:
    """The kernels, if they fit the network's sizes and can be had on this machine."""
    sizes = config.hidden_size | config.intermediate_size | config.moe_intermediate_size
    fits = config.head_dim in HEAD_SIZES and not sizes % _LANES
    return load_kernels() if fits else None


@cache
def load_kernels() -> Kernels | None:
    """The kernels, compiled for this processor; None without a compiler, or with one that fails."""
    # Torch is loaded: the library's OpenMP is found to be there already, and threads are shared.
    library = load_native(_SOURCE, "-fopenmp", "-fno-math-errno")
    return None if library is None else Kernels(library)
