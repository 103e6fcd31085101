"""Llama and those that differ from it by little: Mistral, Mixtral, Granite, SmolLM 3, OLMo 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.table import Family, Tensor


def every_layer(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A window in all layers, or in none."""
    window = raw.get("sliding_window")
    layers = tuple(range(raw["num_hidden_layers"])) if window is not None else ()
    return {"sliding_window": window, "window_layers": layers}


def biases(raw: Mapping[str, Any]) -> dict[str, Any]:
    """One key for the biases of all four projections of attention."""
    bias = bool(raw.get("attention_bias"))
    return {"attention_bias": bias, "output_bias": bias}


def _llama(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**biases(raw), "mlp_bias": bool(raw.get("mlp_bias"))}


def write_llama(config: DecoderConfig) -> dict[str, Any]:
    return {
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "attention_dropout": 0.0,
    }


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read=_llama,
    write=write_llama,
    names={"sliding_window": None},
)


def _no_more(config: DecoderConfig) -> dict[str, Any]:
    return {"attention_dropout": 0.0}


MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    read=every_layer,
    write=_no_more,
    # A window that is left out is one of 4096 tokens; null is none.
    defaults={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131_072},
)


def _mixtral(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **every_layer(raw),
        "num_experts": raw["num_local_experts"],
        "num_experts_per_tok": raw["num_experts_per_tok"],
        "moe_intermediate_size": raw["intermediate_size"],
    }


def _write_mixtral(config: DecoderConfig) -> dict[str, Any]:
    return {
        "intermediate_size": config.moe_intermediate_size,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "attention_dropout": 0.0,
    }


_EXPERT = r"(model\.layers\.\d+)\.mlp\.experts\.(\d+)"
MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    read=_mixtral,
    write=_write_mixtral,
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    rope_theta=1_000_000.0,
    tensors=(
        Tensor(r"(model\.layers\.\d+)\.mlp\.gate\.weight", r"\1.block_sparse_moe.gate.weight"),
        Tensor(_EXPERT + r"\.gate_proj\.weight", r"\1.block_sparse_moe.experts.\2.w1.weight"),
        Tensor(_EXPERT + r"\.down_proj\.weight", r"\1.block_sparse_moe.experts.\2.w2.weight"),
        Tensor(_EXPERT + r"\.up_proj\.weight", r"\1.block_sparse_moe.experts.\2.w3.weight"),
    ),
)


def _granite(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_llama(raw),
        "embedding_multiplier": float(raw["embedding_multiplier"]),
        "residual_multiplier": float(raw["residual_multiplier"]),
        "attention_scale": float(raw["attention_multiplier"]),
        "logits_divisor": float(raw["logits_scaling"]),
    }


def _write_granite(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "embedding_multiplier": config.embedding_multiplier,
        "residual_multiplier": config.residual_multiplier,
        "attention_multiplier": config.scale(0),
        "logits_scaling": config.logits_divisor,
    }


GRANITE = Family(
    name="granite",
    architecture="GraniteForCausalLM",
    read=_granite,
    write=_write_granite,
    defaults={
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    names={"sliding_window": None},
)


def _smollm3(raw: Mapping[str, Any]) -> dict[str, Any]:
    layers = range(raw["num_hidden_layers"])
    rotated = raw.get("no_rope_layers")  # despite its name 1 where positions are rotated
    if rotated is None:
        rotated = [(layer + 1) % raw["no_rope_layer_interval"] for layer in layers]
    unrotated = tuple(layer for layer in layers if not rotated[layer])
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    types = raw.get("layer_types")
    if window is None:
        windowed: tuple[int, ...] = ()
    elif types is None:
        windowed = unrotated
    else:
        windowed = tuple(layer for layer in layers if types[layer] == "sliding_attention")
    return {**_llama(raw), "unrotated_layers": unrotated, "sliding_window": window, "window_layers": windowed}


def layer_types(config: DecoderConfig) -> list[str]:
    """transformers' words for which layers have a window."""
    return [
        "sliding_attention" if layer in config.window_layers else "full_attention"
        for layer in range(config.num_hidden_layers)
    ]


def _write_smollm3(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_llama(config),
        "no_rope_layers": [
            int(layer not in config.unrotated_layers) for layer in range(config.num_hidden_layers)
        ],
        "use_sliding_window": config.sliding_window is not None,
        "layer_types": layer_types(config),
    }


SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    read=_smollm3,
    write=_write_smollm3,
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "no_rope_layer_interval": 4,
    },
    rope_theta=2_000_000.0,
)


def _olmo2(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**biases(raw), "qk_norm": "projection", "norm_placement": "post"}


OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    read=_olmo2,
    write=lambda config: {"attention_bias": config.attention_bias, "attention_dropout": 0.0},
    defaults={"rms_norm_eps": 1e-5},
    names={"sliding_window": None},
)
