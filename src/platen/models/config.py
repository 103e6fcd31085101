"""The project file's `model`: the shape of a network that is trained from scratch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from platen.core.config import PositiveInt, Section


class RopeScalingConfig(Section):
    """Llama 3.1's frequency scaling for contexts longer than the training length."""

    factor: Annotated[float, Field(ge=1)] = 8.0
    """How many times longer the slow frequencies' wavelengths become."""
    low_freq_factor: Annotated[float, Field(gt=0)] = 1.0
    """Wavelengths over original_max_position_embeddings / this are scaled in full."""
    high_freq_factor: Annotated[float, Field(gt=0)] = 4.0
    """Wavelengths under original_max_position_embeddings / this are left alone."""
    original_max_position_embeddings: PositiveInt = 8192
    """The context window, in tokens, that the frequencies were made for."""

    @model_validator(mode="after")
    def _ordered(self) -> RopeScalingConfig:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor ({self.low_freq_factor:g}) must be less than "
                f"high_freq_factor ({self.high_freq_factor:g})"
            )
        return self


class ModelConfig(Section):
    """The shape of the network, in Hugging Face's names."""

    architecture: Literal["llama", "feedforward", "rmsnorm", "rope_attention", "swiglu"] = "llama"
    """`llama`, or a rung of the ablation ladder below it."""
    hidden_size: PositiveInt = 192
    """Width: numbers per token between layers. A multiple of `num_attention_heads`."""
    intermediate_size: PositiveInt = 512
    """Width inside the feed-forward block."""
    num_hidden_layers: PositiveInt = 6
    """Depth: transformer blocks."""
    num_attention_heads: PositiveInt = 6
    """Query heads."""
    num_key_value_heads: PositiveInt | None = None
    """Key/value heads; fewer than `num_attention_heads` is grouped-query attention. Default: as many."""
    max_position_embeddings: PositiveInt = 256
    """Context window in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary embedding's wavelengths."""
    rope_scaling: RopeScalingConfig | None = None
    """Stretch the rotary wavelengths; none when absent."""
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Added to the mean square before its root is taken."""
    tie_word_embeddings: bool = True
    """Use one matrix to read tokens and to predict them."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("hidden_size / num_attention_heads must be even for rotary embeddings")
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self
