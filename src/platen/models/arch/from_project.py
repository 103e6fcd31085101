"""The network that a project file's `model` describes: a Llama, to be trained from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.models.arch.config import DecoderConfig, RopeScaling

if TYPE_CHECKING:
    from platen.models.config import ModelConfig
    from platen.tokens.tokenizer import Tokenizer


def llama_config(model: ModelConfig, vocab_size: int, tokenizer: Tokenizer | None = None) -> DecoderConfig:
    """The network's config: the project file's shape and, once there is a tokenizer, its special tokens."""
    scaling = model.rope_scaling
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads or model.num_attention_heads,
        head_dim=model.hidden_size // model.num_attention_heads,
        max_position_embeddings=model.max_position_embeddings,
        rope_theta=model.rope_theta,
        rope_scaling=RopeScaling(**scaling.model_dump()) if scaling else None,
        norm_eps=model.rms_norm_eps,
        tie_word_embeddings=model.tie_word_embeddings,
        bos_token_id=tokenizer.bos_id if tokenizer else None,
        eos_token_id=tokenizer.eos_id if tokenizer else None,
        pad_token_id=tokenizer.pad_id if tokenizer else None,
    )
