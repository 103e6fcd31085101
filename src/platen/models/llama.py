"""The Llama 3 network in plain PyTorch: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Token ids go in, logits come out. Parameter names are those of transformers' `LlamaForCausalLM`, so weights
go both ways without renaming. Letters in shapes: B rows, T new tokens, S tokens to look at (cached and new),
C hidden size, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.models.llama_config import LlamaConfig, RopeScaling


class Cache(Protocol):
    """Keys and values of the tokens already seen, one pair of tensors a layer."""

    @property
    def length(self) -> int:
        """Tokens held before this forward pass."""
        ...

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new (B, K, T, D) keys and values; return all of them, (B, K, S, D)."""
        ...

    @property
    def ragged(self) -> bool:
        """Whether rows hold different numbers of tokens; a new one looks at all before it in its row."""
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
        config: LlamaConfig,
        batch_size: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch_size, config.num_key_value_heads, capacity, config.head_dim)
        self.data = torch.empty((2, config.num_hidden_layers, *shape), dtype=dtype, device=device)
        self._keys, self._values = list(self.data[0]), list(self.data[1])
        self.capacity = capacity
        self.length = 0

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


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle per position of each of the head_dim / 2 pairs (RoFormer, 2021), float32.

    Pair i turns by theta^(-2i / head_dim) a position, i from 0; Llama 3.1's scaling then slows the slow ones.
    """
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is None:
        return frequencies
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


class RotaryTables(nn.Module):
    """Cosines and sines of every position, (max_position_embeddings, D), always float32.

    The sines' first half is negative, as `rotate` wants them.
    They are no weights: casting the model leaves them in float32, because bfloat16 angles are wrong.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.reset(torch.get_default_device())

    def reset(self, device: torch.device) -> None:
        """Compute the tables anew on `device` (after a build on the meta device they are empty)."""
        config = self.config
        if device.type == "meta":
            cos = sin = torch.empty(config.max_position_embeddings, config.head_dim, device=device)
        else:
            with torch.device("cpu"):
                frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
                positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
                angles = torch.outer(positions, frequencies)
                cos = angles.cos().repeat(1, 2).to(device)
                sin = torch.cat((-angles.sin(), angles.sin()), dim=1).to(device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryTables:
        before = self.cos.device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cos.dtype != torch.float32 or self.cos.device != before:
            self.reset(self.cos.device)
        return self


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of x (B, H, T, D) by their angles: Hugging Face's half-split layout."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang and Sennrich, 2019): one gain a feature, no shift."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normal = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return normal.to(_compute_dtype(x))  # once, not in each of the projections that read it


def composed_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q (B, H, T, D) over k and v (B, K, T, D) from plain products: (B, H, T, D)."""
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    future = torch.full((q.shape[2], q.shape[2]), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + future
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _composed_is_faster(q: Tensor) -> bool:
    """PyTorch's fused attention for CPUs has a slow backward pass in bfloat16: 4 times slower at T = 128."""
    low_precision = q.dtype == torch.bfloat16 and q.device.type == "cpu"
    return low_precision and torch.is_grad_enabled() and q.shape[2] <= 512


class Attention(nn.Module):
    """Causal attention whose query heads share key/value heads in groups (GQA, Ainslie et al., 2023)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool, cache: Cache | None
    ) -> Tensor:
        rows, tokens, _ = x.shape
        heads = (rows, tokens, -1, self.head_dim)
        q = rotate(self.q_proj(x).view(heads).transpose(1, 2), cos, sin)  # (B, H, T, D)
        k = rotate(self.k_proj(x).view(heads).transpose(1, 2), cos, sin)  # (B, K, T, D)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        if mask is None and causal and _composed_is_faster(q):
            y = composed_attention(q, k, v)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped
            )
        return self.o_proj(y.transpose(1, 2).reshape(rows, tokens, -1))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """The gated feed-forward layer (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, config: LlamaConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = dropout

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool, cache: Cache | None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), cos, sin, mask, causal, cache)
        x = x + self._drop(attended)
        return x + self._drop(self.mlp(self.post_attention_layernorm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Trunk(nn.Module):
    """Everything below the output layer; named `model` in the weights."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, dropout) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryTables(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        kv_cache: Cache | None,
    ) -> Tensor:
        tokens = input_ids.shape[1]
        past = kv_cache.length if kv_cache is not None else 0
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
        if position_ids is None:
            cos = self.rotary.cos[past : past + tokens]  # (T, D)
            sin = self.rotary.sin[past : past + tokens]
        else:
            cos = self.rotary.cos[position_ids].unsqueeze(1)  # (B, 1, T, D)
            sin = self.rotary.sin[position_ids].unsqueeze(1)
        x = self.embed_tokens(input_ids)  # (B, T, C)
        compute = _compute_dtype(x)
        cos, sin = cos.to(compute), sin.to(compute)
        mask, causal = _mask(attention_mask, tokens, past, x.device)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, causal, kv_cache)
        if kv_cache is not None:
            kv_cache.advance(tokens)
        return self.norm(x)  # type: ignore[no-any-return]


class Llama(nn.Module):
    """The whole network.

    Weights start from normal(0, initializer_range), norms from 1. `dropout` is for training only: it acts
    on what each layer adds, in train mode, and is no part of the saved model.
    """

    def __init__(self, config: LlamaConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config, dropout)
        self.packed_output: nn.Module | None = None  # see platen.engines.torch.cpu.packed
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)

    @property
    def output_weight(self) -> Tensor:
        """The (V, C) matrix of the output layer: its own, or the tied embedding's."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        kv_cache: Cache | None = None,
    ) -> Tensor:
        """The normalised output of the last layer, (B, T, C); arguments as in `forward`."""
        return self.model(input_ids, attention_mask, position_ids, kv_cache)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        kv_cache: Cache | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `input_ids` (B, T).

        `attention_mask` (B, S) is 1 at real tokens, 0 at padding, over the cached and the new tokens; without
        it all are real. One of (B, T, S) says of each new token what it looks at, and wants `position_ids`
        (B, T), which otherwise default to the count of real tokens before each. With
        `logits_to_keep` n > 0 only the last n positions come out. Positions must be below
        max_position_embeddings.
        """
        x = self.hidden_states(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, kv_cache=kv_cache
        )
        return self.logits(x[:, -logits_to_keep:])

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer: logits (B, T, V) of hidden states (B, T, C)."""
        if self.packed_output is None:
            return F.linear(hidden, self.output_weight)
        return self.packed_output(hidden)  # type: ignore[no-any-return]


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that the projections come out in, so that rotating them doesn't widen them again."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _mask(
    attention_mask: Tensor | None, tokens: int, past: int, device: torch.device
) -> tuple[Tensor | None, bool]:
    """What each new token may look at, as scaled_dot_product_attention takes it: (mask, is_causal).

    A padding token looks at itself, lest its softmax be over nothing; no real token looks at it.
    """
    if attention_mask is None:
        if tokens == 1 or past == 0:
            return None, tokens > 1
        total = past + tokens
    elif attention_mask.dim() == 3:
        return attention_mask[:, None], False
    else:
        total = attention_mask.shape[1]
        if tokens == 1:
            return attention_mask.bool()[:, None, None, :], False
    new = torch.arange(total - tokens, total, device=device)[:, None]
    seen = torch.arange(total, device=device)[None, :]
    causal = seen <= new  # (T, S)
    if attention_mask is None:
        return causal, False
    itself = seen == new
    return ((causal & attention_mask.bool()[:, None, :]) | itself)[:, None], False
