"""The Transformer of 2017 in NumPy: encoder, decoder, and both together; forward passes only.

Sine and cosine positions, residual connections with the norm after them, feed-forward layers with ReLU. It
reads the weights of `torch.nn.Transformer` and its parts, and gives what they give. Shapes as in `attention`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from platen.models.classic.attention import Array, Weights, causal_mask, linear, multi_head

EPSILON = 1e-5


def sine_positions(steps: int, size: int) -> NDArray[np.float64]:
    """(T, C): sin(t / 10000^(2i/C)) in the even places 2i, the cosine in the odd ones after them."""
    frequency = 10_000.0 ** (-np.arange(0, size, 2) / size)
    angle = np.arange(steps)[:, None] * frequency
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(steps, -1)[:, :size]


def layer_norm(weights: Weights, x: Array) -> Array:
    """Each vector with mean 0 and variance 1, then scaled and shifted."""
    centred = x - x.mean(axis=-1, keepdims=True)
    result: Array = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return result * weights["weight"] + weights["bias"]


def feed_forward(weights: Weights, x: Array) -> Array:
    hidden = np.maximum(linear(x, weights["linear1.weight"], weights["linear1.bias"]), 0)
    return linear(hidden, weights["linear2.weight"], weights["linear2.bias"])


def encoder_layer(weights: Weights, heads: int, x: Array, mask: Array | None = None) -> Array:
    """Self-attention and a feed-forward layer, each added to what it reads and normed."""
    x = layer_norm(below(weights, "norm1"), x + multi_head(below(weights, "self_attn"), heads, x, x, mask))
    return layer_norm(below(weights, "norm2"), x + feed_forward(weights, x))


def decoder_layer(weights: Weights, heads: int, x: Array, memory: Array, mask: Array | None) -> Array:
    """Self-attention, attention to the encoder's `memory` (B, S, C), and a feed-forward layer."""
    x = layer_norm(below(weights, "norm1"), x + multi_head(below(weights, "self_attn"), heads, x, x, mask))
    seen = multi_head(below(weights, "multihead_attn"), heads, x, memory)
    x = layer_norm(below(weights, "norm2"), x + seen)
    return layer_norm(below(weights, "norm3"), x + feed_forward(weights, x))


def encoder(weights: Weights, heads: int, x: Array, mask: Array | None = None) -> Array:
    """(B, S, C) through all layers of a `torch.nn.TransformerEncoder`, and its last norm where it has one.

    With `mask=causal_mask(S)` it is a decoder without an encoder, such as GPT's.
    """
    for layer in _layers(weights):
        x = encoder_layer(layer, heads, x, mask)
    return _last_norm(weights, x)


def decoder(weights: Weights, heads: int, x: Array, memory: Array) -> Array:
    """(B, T, C) through all layers of a `torch.nn.TransformerDecoder`; no step sees those after it."""
    mask = causal_mask(x.shape[-2])
    for layer in _layers(weights):
        x = decoder_layer(layer, heads, x, memory, mask)
    return _last_norm(weights, x)


def encoder_decoder(weights: Weights, heads: int, source: Array, target: Array) -> Array:
    """(B, T, C) of `torch.nn.Transformer`: the target, shifted right, decoded beside the encoded source."""
    return decoder(
        below(weights, "decoder"), heads, target, encoder(below(weights, "encoder"), heads, source)
    )


def below(weights: Weights, prefix: str) -> Weights:
    """The arrays whose names begin with `prefix` and a dot, without these."""
    start = prefix + "."
    return {name.removeprefix(start): array for name, array in weights.items() if name.startswith(start)}


def _layers(weights: Weights) -> list[Weights]:
    count = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    return [below(weights, f"layers.{index}") for index in range(count)]


def _last_norm(weights: Weights, x: Array) -> Array:
    return layer_norm(below(weights, "norm"), x) if "norm.weight" in weights else x
