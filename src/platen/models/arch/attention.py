"""Causal attention whose query heads share key/value heads in groups (GQA, Ainslie et al., 2023).

Which keys a token attends to is worked out for a block of queries at a time, so no mask of all tokens by all
tokens is ever made. Letters in shapes as in `platen.models.arch.decoder`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.models.arch.cache import Cache
from platen.models.arch.config import DecoderConfig
from platen.models.arch.layers import RMSNorm
from platen.models.arch.rope import rotate

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, (T, R) or (B, 1, T, R)."""

QUERY_BLOCK = 512
"""Queries whose mask is made at once."""


class Visible:
    """Which of S tokens each of T new ones attends to, the last of which are themselves.

    Those up to itself; of `real` (B, S) only where it is true; or, instead of all that, of `chosen` (B, T, S)
    where it is true, with each new token's position in its row (B, T).
    """

    def __init__(
        self,
        tokens: int,
        past: int = 0,
        *,
        real: Tensor | None = None,
        chosen: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        self.tokens, self.past = tokens, past
        self.real, self.chosen, self.positions = real, chosen, positions

    @classmethod
    def of(
        cls, attention_mask: Tensor | None, tokens: int, past: int, position_ids: Tensor | None
    ) -> Visible:
        """From the arguments of `Decoder.forward`."""
        if attention_mask is None:
            return cls(tokens, past)
        if attention_mask.dim() == 3:
            return cls(tokens, past, chosen=attention_mask.bool(), positions=position_ids)
        return cls(tokens, attention_mask.shape[1] - tokens, real=attention_mask.bool())

    @property
    def padded(self) -> bool:
        """Whether there are tokens to skip among those before a new one."""
        return self.real is not None

    @property
    def by_row(self) -> bool:
        """Whether rows differ in what their tokens attend to."""
        return self.real is not None or self.chosen is not None

    def plain(self, window: int | None) -> bool:
        """Whether all that counts is that later tokens are not seen, and all S are new."""
        return not self.by_row and self.past == 0 and (window is None or self.tokens <= window)

    def all_seen(self, window: int | None) -> bool:
        """Whether the one new token attends to everything."""
        return self.tokens == 1 and not self.by_row and (window is None or self.past < window)

    def first_key(self, start: int, window: int | None) -> int:
        """The first key that new token `start` and those after it may attend to."""
        return 0 if window is None or self.chosen is not None else max(0, self.past + start - window + 1)

    def mask(self, start: int, stop: int, first: int, window: int | None, like: Tensor) -> Tensor:
        """Of new tokens [start, stop): whether each attends to the keys from `first` on that it can know of.

        (stop - start, keys), or (B, 1, stop - start, keys) where rows differ.
        """
        if self.chosen is not None:
            mask = self.chosen[:, start:stop]
            if window is not None:
                assert self.positions is not None
                keys = torch.arange(mask.shape[2], device=like.device)
                mask = mask & (keys > self.positions[:, start:stop, None] - window)
            return mask[:, None]
        queries = torch.arange(self.past + start, self.past + stop, device=like.device)[:, None]
        keys = torch.arange(first, self.past + stop, device=like.device)
        mask = keys <= queries
        if window is not None:
            mask &= keys > queries - window
        if self.real is None:
            return mask
        # A padding token attends to itself, lest its softmax be over nothing; no real token attends to it.
        real = self.real[:, None, first : self.past + stop]
        return ((mask & real) | (keys == queries))[:, None]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visible,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of q (B, H, T, D) over k and v (B, K, S, D): (B, H, T, D)."""
    if visible.tokens == 1 and q.shape[1] != k.shape[1]:
        # The heads of a group attend to the same keys: as rows of one matmul.
        rows = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        return _attend(rows, k, v, visible, scale, window, softcap).reshape(q.shape)
    return _attend(q, k, v, visible, scale, window, softcap)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visible,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    composed = softcap is not None or _composed_is_faster(q)
    if visible.plain(window) and composed and 1 < visible.tokens <= QUERY_BLOCK:
        return composed_attention(q, k, v, scale=scale, softcap=softcap)
    grouped = q.shape[1] != k.shape[1]
    if softcap is None and visible.plain(window):
        causal = visible.tokens > 1
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)
    if softcap is None and visible.all_seen(window):
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    blocks = []
    for start in range(0, visible.tokens, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, visible.tokens)
        first = visible.first_key(start, window)
        mask = visible.mask(start, stop, first, window, q)
        keys = slice(first, first + mask.shape[-1])
        queries = q if visible.tokens == 1 else q[:, :, start:stop]
        some = queries, k[:, :, keys], v[:, :, keys]
        if softcap is None:
            attended = F.scaled_dot_product_attention(*some, attn_mask=mask, scale=scale, enable_gqa=grouped)
        else:
            attended = composed_attention(*some, scale=scale, softcap=softcap, mask=mask)
        blocks.append(attended)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)


def composed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of q (B, H, T, D) over k and v (B, K, S, D) from plain matmuls: (B, H, T, D).

    `mask` is true where a query attends; without one it is causal, and S is T.
    """
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if mask is None:
        mask = torch.ones((q.shape[2], k.shape[2]), dtype=torch.bool, device=q.device).tril()
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _composed_is_faster(q: Tensor) -> bool:
    """PyTorch's fused attention for CPUs has a slow backward pass in bfloat16: 4 times slower at T = 128."""
    low_precision = q.dtype == torch.bfloat16 and q.device.type == "cpu"
    return low_precision and torch.is_grad_enabled() and q.shape[2] > 1


class Attention(nn.Module):
    """The projections, what is done to queries and keys, and attention itself."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.scale, self.softcap = config.scale(layer), config.attention_softcap
        hidden, queries, keys = config.hidden_size, config.query_size, config.key_size
        self.q_proj = nn.Linear(hidden, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(hidden, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(hidden, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, hidden, bias=config.output_bias)
        self.norm_by_head = config.qk_norm == "head"
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm is not None:
            sizes = (self.head_dim, self.head_dim) if self.norm_by_head else (queries, keys)
            self.q_norm = RMSNorm(sizes[0], config.norm_eps, config.norm_offset)
            self.k_norm = RMSNorm(sizes[1], config.norm_eps, config.norm_offset)

    def forward(self, x: Tensor, angles: Angles | None, visible: Visible, cache: Cache | None) -> Tensor:
        rows, tokens, _ = x.shape
        q = self._heads(self.q_proj(x), self.q_norm, angles)
        k = self._heads(self.k_proj(x), self.k_norm, angles)
        v = self._heads(self.v_proj(x), None, None)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        y = attend(q, k, v, visible, scale=self.scale, window=self.window, softcap=self.softcap)
        return self.o_proj(y.transpose(1, 2).reshape(rows, tokens, -1))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor, norm: RMSNorm | None, angles: Angles | None) -> Tensor:
        """(B, T, heads * D) to (B, heads, T, D): cut into heads, normalised, rotated."""
        if norm is not None and not self.norm_by_head:
            x = norm(x)
        x = x.view(*x.shape[:2], -1, self.head_dim)
        if norm is not None and self.norm_by_head:
            x = norm(x)
        x = x.transpose(1, 2)
        return x if angles is None else rotate(x, *angles)
