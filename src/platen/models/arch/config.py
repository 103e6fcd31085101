"""What decides a decoder's parameters and its function, whatever family it is of.

One frozen dataclass; a family (Llama, Qwen, Gemma, ...) is a set of values for it. `families` reads it from a
Hugging Face `config.json` and writes it back; `parameters` has the names and shapes of its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from platen.core.errors import BundleError

RopeKind = Literal["llama3", "linear", "dynamic", "yarn", "longrope"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed for contexts longer than those of the first training.

    * llama3 ("The Llama 3 Herd of Models", 2024): wavelengths longer than `original_max_position_embeddings /
      low_freq_factor` are stretched by `factor`, those shorter than `original_max_position_embeddings /
      high_freq_factor` are kept, between them the two are blended.
    * linear: all are stretched by `factor`.
    * dynamic: changes nothing within `max_position_embeddings`, beyond which nothing is computed here.
    * yarn (Peng et al., 2023): pairs that turn more than `beta_fast` times in the original context are kept,
      those that turn less than `beta_slow` times are stretched by `factor`, between them the two are blended.
    * longrope (Ding et al., 2024): each pair has a factor of its own, from `short_factors` for sequences of
      up to `original_max_position_embeddings` tokens and from `long_factors` for longer ones.

    `attention_factor` multiplies cosines and sines (yarn, longrope).
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    kind: RopeKind = "llama3"
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """yarn: whether the blend begins and ends at whole pairs."""
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class DecoderConfig:
    """What decides a network's parameters and its function. Layers are numbered from 0."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the feed-forward layers that have no experts."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    family: str = "llama"
    """A key of `families.families()`: in whose format the model is written."""

    # Attention
    attention_bias: bool = False
    """Biases on the query, key and value projections..."""
    output_bias: bool = False
    """...and on the output projection."""
    qk_norm: Literal["head", "projection"] | None = None
    """RMSNorm of queries and keys before rotation: over each head (Qwen 3), or over all of them (OLMo 2)."""
    attention_scale: float | None = None
    """What scores are multiplied by; None: head_dim ** -0.5."""
    scale_by_inverse_layer: bool = False
    """Scores are also divided by the layer's number plus 1 (some GPT-2)."""
    attention_softcap: float | None = None
    """c: scores become c * tanh(score / c) (Gemma 2)."""
    sliding_window: int | None = None
    """In `window_layers` a token attends to itself and the window - 1 tokens before it."""
    window_layers: tuple[int, ...] = ()

    # Positions
    positions: Literal["rotary", "learned"] = "rotary"
    """Learned ones are added to the embeddings (GPT-2)."""
    rotary_factor: float = 1.0
    """Share of each head's dimensions, the first ones, that are rotated."""
    local_rope_theta: float | None = None
    """Base of the rotation in `window_layers`, without scaling (Gemma 3); None: as in the other layers."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers without positions (SmolLM 3)."""

    # Norms and residual stream
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with a bias."""
    norm_offset: float = 0.0
    """RMSNorm multiplies by this plus its weight (Gemma: 1)."""
    norm_placement: Literal["pre", "post", "both"] = "pre"
    """Norms before attention and feed-forward layer, after them (OLMo 2), or both (Gemma)."""
    parallel_residual: bool = False
    """Attention and feed-forward layer both take the layer's input (GPT-NeoX)."""
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    """Of what attention and feed-forward layer add (Granite)."""
    logits_divisor: float = 1.0
    final_softcap: float | None = None
    """c: logits become c * tanh(logit / c) (Gemma 2)."""

    # Feed-forward layer
    activation: Activation = "silu"
    gated_mlp: bool = True
    """down(act(gate(x)) * up(x)); otherwise down(act(up(x)))."""
    mlp_bias: bool = False

    # Mixture of experts
    num_experts: int = 0
    """Experts in each layer but `dense_layers`; 0: none."""
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    """Width of an expert."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts add up to 1."""
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise BundleError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})",
                hint="Every group of query heads shares one key/value head; make one divide the other.",
            )
        if self.positions == "rotary" and (self.rotary_dim % 2 or not self.rotary_dim):
            raise BundleError(
                f"head_dim ({self.head_dim}) has {self.rotary_dim} rotated dimensions",
                hint="Rotary embeddings turn pairs; make their number even.",
            )
        if self.num_experts and not 0 < self.num_experts_per_tok <= self.num_experts:
            raise BundleError(
                f"{self.num_experts_per_tok} experts per token of {self.num_experts}",
                hint="Take config.json again from where the model comes from.",
            )

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that are rotated: pairs (i, i + rotary_dim / 2) of the first ones."""
        return int(self.head_dim * self.rotary_factor)

    @property
    def query_size(self) -> int:
        """Outputs of the query projection."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Outputs of the key projection and of the value projection."""
        return self.num_key_value_heads * self.head_dim

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a sequence (chat models often have several)."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    def window(self, layer: int) -> int | None:
        """How many tokens, itself included, a token attends to at most; None: all before it."""
        if self.sliding_window is None or layer not in self.window_layers:
            return None
        return self.sliding_window if self.sliding_window < self.max_position_embeddings else None

    def theta(self, layer: int) -> float | None:
        """Base of a layer's rotation; None where queries and keys are not rotated."""
        if self.positions != "rotary" or layer in self.unrotated_layers:
            return None
        return self.local_rope_theta if self.is_local(layer) else self.rope_theta

    def is_local(self, layer: int) -> bool:
        """Whether the layer rotates by `local_rope_theta`, unscaled."""
        return self.local_rope_theta is not None and layer in self.window_layers

    def scale(self, layer: int) -> float:
        """What a layer's attention scores are multiplied by."""
        scale = self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale
        return scale / (layer + 1) if self.scale_by_inverse_layer else scale

    def has_experts(self, layer: int) -> bool:
        return self.num_experts > 0 and layer not in self.dense_layers

    def num_parameters(self) -> int:
        """Trainable parameters; tied embeddings count once."""
        from platen.models.arch.parameters import parameter_shapes

        return sum(math.prod(shape) for shape in parameter_shapes(self).values())

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> DecoderConfig:
        """Read a parsed `config.json`: see `families.read_config`."""
        from platen.models.arch.families import read_config

        return read_config(raw)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of its family: see `families.write_config`."""
        from platen.models.arch.families import write_config

        return write_config(self)
