"""Attention in NumPy, from one formula to several heads ("Attention Is All You Need", 2017).

To read and to check others by, not to train with. Letters in shapes: T queries, S keys and values, D their
width, C the model's; any dimensions may stand before these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]
"""A network's arrays by their names in PyTorch's state dict, here those below one prefix."""
FORBIDDEN = -1e9
"""Added to a score, it leaves no weight."""


def softmax(scores: Array) -> Array:
    """Weights along the last dimension that sum to 1. The largest is taken off first: none overflows."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = raised / raised.sum(axis=-1, keepdims=True)
    return result


def causal_mask(steps: int) -> NDArray[np.bool_]:
    """(T, T): True where a query may look, at itself and what is before it."""
    return np.tri(steps, dtype=np.bool_)


def attention(
    query: Array, key: Array, value: Array, mask: Array | None = None, *, scale: bool = True
) -> Array:
    """softmax(QKᵀ / √D) V: (..., T, D) of queries (T, D), keys (S, D), values (S, D).

    `mask` (T, S) is True where a query may look. Without `scale` nothing is divided.
    """
    scores = query @ key.swapaxes(-1, -2)
    if scale:
        scores = scores / np.sqrt(query.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, FORBIDDEN)
    return softmax(scores) @ value


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Wx + b for each vector; weight (out, in)."""
    return x @ weight.T + bias


def multi_head(weights: Weights, heads: int, query: Array, source: Array, mask: Array | None = None) -> Array:
    """Attention from `query` (B, T, C) to `source` (B, S, C) with `heads` heads of width C / heads.

    `weights` are those of `torch.nn.MultiheadAttention`: three projections in one, and the output's.
    """
    in_weight, in_bias = (np.split(weights[f"in_proj_{name}"], 3) for name in ("weight", "bias"))
    parts = (query, source, source)
    q, k, v = (
        _heads(linear(x, weight, bias), heads)
        for x, weight, bias in zip(parts, in_weight, in_bias, strict=True)
    )
    joined = attention(q, k, v, mask).swapaxes(-2, -3).reshape(query.shape)
    return linear(joined, weights["out_proj.weight"], weights["out_proj.bias"])


def _heads(x: Array, heads: int) -> Array:
    """(B, T, C) cut into (B, heads, T, C / heads)."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)
