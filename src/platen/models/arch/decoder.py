"""The decoder: one network in plain PyTorch, built from a `DecoderConfig`, for all families.

Token ids go in, logits come out. `parameters` has its parameters' names. Letters in shapes: B rows, T new
tokens, S tokens to attend to (cached and new), C hidden size, H query heads, K key/value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.models.arch.attention import Angles, Attention, Visible
from platen.models.arch.cache import Cache
from platen.models.arch.config import DecoderConfig, RopeScaling
from platen.models.arch.layers import FeedForward, MixtureOfExperts, compute_dtype, make_norm
from platen.models.arch.parameters import norm_names
from platen.models.arch.rope import RotaryTables, rope_frequencies


class DecoderLayer(nn.Module):
    """Attention and feed-forward layer, each with norms before or after it, added to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp: nn.Module = MixtureOfExperts(config) if config.has_experts(layer) else FeedForward(config)
        for name in norm_names(config):
            self.add_module(name, make_norm(config))
        before, after = config.norm_placement != "post", config.norm_placement != "pre"
        self._names = (
            "input_layernorm" if before else None,
            "post_attention_layernorm" if after else None,
            ("pre_feedforward_layernorm" if after else "post_attention_layernorm") if before else None,
            "post_feedforward_layernorm" if after else None,
        )
        self.parallel = config.parallel_residual
        self.multiplier = config.residual_multiplier
        self.dropout = dropout

    def forward(self, x: Tensor, angles: Angles | None, visible: Visible, cache: Cache | None) -> Tensor:
        before_attention, after_attention, before_mlp, after_mlp = self._names
        attended = self.self_attn(self._norm(before_attention, x), angles, visible, cache)
        attended = self._scaled(self._norm(after_attention, attended))
        if self.parallel:
            return x + attended + self._scaled(self.mlp(self._norm(before_mlp, x)))
        x = x + attended
        return x + self._scaled(self._norm(after_mlp, self.mlp(self._norm(before_mlp, x))))

    @property
    def norms(self) -> list[nn.Module | None]:
        """Before attention, after it, before the feed-forward layer, after it."""
        return [None if name is None else getattr(self, name) for name in self._names]

    def _norm(self, name: str | None, x: Tensor) -> Tensor:
        return x if name is None else getattr(self, name)(x)

    def _scaled(self, x: Tensor) -> Tensor:
        """What is added to the residual stream."""
        if self.multiplier != 1.0:
            x = x * self.multiplier
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Trunk(nn.Module):
    """Everything below the output layer; named `model` in the weights."""

    def __init__(self, config: DecoderConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions: nn.Embedding | None = None
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, dropout) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config)
        self.rotary, self.local_rotary, self.long_rotary = rotary_tables(config)

    @property
    def tables(self) -> list[RotaryTables]:
        found = (self.rotary, self.local_rotary, self.long_rotary)
        return [table for table in found if table is not None]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        kv_cache: Cache | None,
    ) -> Tensor:
        tokens = input_ids.shape[1]
        past = kv_cache.length if kv_cache is not None else 0
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
        x = self._embed(input_ids, position_ids, past)  # (B, T, C)
        visible = Visible.of(attention_mask, tokens, past, position_ids)
        full, local = self._angles(position_ids, past, tokens, kv_cache, compute_dtype(x))
        for number, layer in enumerate(self.layers):
            x = layer(x, self._angles_of(number, full, local), visible, kv_cache)
        if kv_cache is not None:
            kv_cache.advance(tokens)
        return self.norm(x)  # type: ignore[no-any-return]

    def layer_angles(self, layer: int, past: int, tokens: int, dtype: torch.dtype) -> Angles | None:
        """Of `tokens` tokens from position `past` on, as a layer takes them."""
        return self._angles_of(layer, *self._angles(None, past, tokens, None, dtype))

    def _angles_of(self, layer: int, full: Angles | None, local: Angles | None) -> Angles | None:
        if self.config.theta(layer) is None:
            return None
        return local if self.config.is_local(layer) else full

    def _embed(self, input_ids: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        x: Tensor = self.embed_tokens(input_ids)
        if self.config.embedding_multiplier != 1.0:
            x = x * torch.tensor(self.config.embedding_multiplier, dtype=x.dtype)
        if self.embed_positions is not None:
            if position_ids is None:
                x = x + self.embed_positions.weight[past : past + input_ids.shape[1]]
            else:
                x = x + self.embed_positions(position_ids)
        return x

    def _angles(
        self, position_ids: Tensor | None, past: int, tokens: int, cache: Cache | None, dtype: torch.dtype
    ) -> tuple[Angles | None, Angles | None]:
        """Of the layers that see everything, and of those with a rotation of their own."""
        if self.rotary is None:
            return None, None
        end = past + tokens
        if position_ids is not None and cache is None and self.rotary.cos.shape[0] < self._positions:
            end = max(end, int(position_ids.max()) + 1)
        for table in self.tables:
            table.reach(end)
        full = _taken(self.rotary, position_ids, past, tokens, dtype)
        local = None
        if self.local_rotary is not None:
            local = _taken(self.local_rotary, position_ids, past, tokens, dtype)
        if self.long_rotary is not None:
            long = _taken(self.long_rotary, position_ids, past, tokens, dtype)
            full = self._long_or_short(long, full, position_ids, end, cache)
        return full, local

    @property
    def _positions(self) -> int:
        return self.config.max_position_embeddings

    def _long_or_short(
        self, long: Angles, short: Angles, position_ids: Tensor | None, end: int, cache: Cache | None
    ) -> Angles:
        """LongRoPE: the factors are by a row's length. In a ragged cache, rows are as long as their first new
        token makes them: those behind it may be drafts.
        """
        assert self.config.rope_scaling is not None
        original = self.config.rope_scaling.original_max_position_embeddings
        if position_ids is None:
            length = (cache.sequence_length if cache else 0) or end
            return long if length > original else short
        newest = position_ids[:, 0] if cache is not None and cache.ragged else position_ids.amax(dim=1)
        is_long = (newest >= original)[:, None, None, None]
        return torch.where(is_long, long[0], short[0]), torch.where(is_long, long[1], short[1])


def rotary_tables(
    config: DecoderConfig,
) -> tuple[RotaryTables | None, RotaryTables | None, RotaryTables | None]:
    """Tables of most layers, of `window_layers` if theirs differ, and LongRoPE's for long sequences."""
    if config.positions != "rotary":
        return None, None, None
    scaling, positions = config.rope_scaling, config.max_position_embeddings
    factor = scaling.attention_factor if scaling else 1.0

    def table(theta: float, scaling: RopeScaling | None, factor: float, long: bool = False) -> RotaryTables:
        frequencies = partial(rope_frequencies, config.rotary_dim, theta, scaling, long=long)
        return RotaryTables(frequencies, config.rotary_dim, positions, factor=factor)

    local = None if config.local_rope_theta is None else table(config.local_rope_theta, None, 1.0)
    is_long = scaling is not None and scaling.kind == "longrope"
    long = table(config.rope_theta, scaling, factor, long=True) if is_long else None
    return table(config.rope_theta, scaling, factor), local, long


def _taken(
    table: RotaryTables, position_ids: Tensor | None, past: int, tokens: int, dtype: torch.dtype
) -> Angles:
    """The new tokens' angles, (T, R), or (B, 1, T, R) by their positions."""
    if position_ids is None:
        cos, sin = table.cos[past : past + tokens], table.sin[past : past + tokens]
    else:
        cos, sin = table.cos[position_ids].unsqueeze(1), table.sin[position_ids].unsqueeze(1)
    return cos.to(dtype), sin.to(dtype)


class Decoder(nn.Module):
    """The whole network.

    Weights start from normal(0, initializer_range), gains of norms from 1, biases from 0. `dropout` is for
    training only: it acts on what each layer adds, in train mode, and is no part of the saved model.
    """

    def __init__(self, config: DecoderConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config, dropout)
        self.packed_output: nn.Module | None = None  # see platen.engines.torch.cpu.packed
        self.packed_dtype: torch.dtype | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of activations, keys and values. Packed weights can be narrower."""
        return self.packed_dtype or self.model.embed_tokens.weight.dtype

    @property
    def output_weight(self) -> Tensor:
        """The (V, C) matrix of the output layer: its own, or the tied embedding's."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    def reset_tables(self, device: torch.device) -> None:
        """Compute what is neither weight nor state, after a build on the meta device."""
        for table in self.model.tables:
            table.reset(device)

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
        it all are real. One of (B, T, S) says of each new token what it attends to, in rows whose first token
        is at position 0, and wants `position_ids` (B, T), which otherwise default to the count of real tokens
        before each. With `logits_to_keep` n > 0 only the last n positions come out. Positions must be below
        max_position_embeddings.
        """
        x = self.hidden_states(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, kv_cache=kv_cache
        )
        return self.logits(x[:, -logits_to_keep:])

    def logits(self, hidden: Tensor) -> Tensor:
        """The output layer: logits (B, T, V) of hidden states (B, T, C)."""
        if self.packed_output is None:
            logits = F.linear(hidden, self.output_weight)
        else:
            logits = self.packed_output(hidden)
        if self.config.logits_divisor != 1.0:
            logits = logits / self.config.logits_divisor
        if self.config.final_softcap is not None:
            logits = self.config.final_softcap * torch.tanh(logits / self.config.final_softcap)
        return logits
