"""Gemma 2 and 3: norms around both parts of a layer, 1 + weight in them, windows in most layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.llama import biases, layer_types
from platen.models.arch.families.table import Family


def _gemma(raw: Mapping[str, Any], pattern: int) -> dict[str, Any]:
    """`pattern`: every so many layers one has no window, unless the layers are told one by one."""
    layers, types = range(raw["num_hidden_layers"]), raw.get("layer_types")
    if types is None:
        windowed = tuple(layer for layer in layers if (layer + 1) % pattern)
    else:
        windowed = tuple(layer for layer in layers if types[layer] == "sliding_attention")
    return {
        **biases(raw),
        "norm_offset": 1.0,
        "norm_placement": "both",
        "embedding_multiplier": raw["hidden_size"] ** 0.5,
        "attention_scale": float(raw["query_pre_attn_scalar"]) ** -0.5,
        "final_softcap": raw.get("final_logit_softcapping"),
        "sliding_window": raw.get("sliding_window"),
        "window_layers": windowed,
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "query_pre_attn_scalar": _whole(config.scale(0) ** -2),
        "final_logit_softcapping": config.final_softcap,
        "attn_logit_softcapping": config.attention_softcap,
        "layer_types": layer_types(config),
    }


def _whole(value: float) -> float:
    """A whole number as such, which transformers wants here."""
    return round(value) if abs(value - round(value)) < 1e-6 * value else value


_DEFAULTS = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_COMPUTED: dict[str, tuple[Any, ...]] = {"use_bidirectional_attention": (False,)}

GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    read=lambda raw: {**_gemma(raw, 2), "attention_softcap": raw.get("attn_logit_softcapping")},
    write=_write,
    defaults={**_DEFAULTS, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    computed=_COMPUTED,
    names={"activation": "hidden_activation"},
)


def _gemma3(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**_gemma(raw, raw["sliding_window_pattern"]), "qk_norm": "head"}


GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=_gemma3,
    write=_write,
    defaults={
        **_DEFAULTS,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10_000.0,
    },
    computed=_COMPUTED,
    names={"activation": "hidden_activation"},
    rope_theta=1_000_000.0,
    # With images: transformers 4's names and 5's.
    known_as=(
        (r"^(?:model\.language_model|language_model\.model)\.", "model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    ),
    ignored=(r"(model\.)?vision_tower\.", r"(model\.)?multi_modal_projector\."),
)
