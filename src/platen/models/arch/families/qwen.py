"""Qwen 2 and 2.5, Qwen 3, and Qwen 3 with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.llama import biases, every_layer, layer_types
from platen.models.arch.families.table import Family


def _windows(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A window in the upper layers, if it is switched on at all."""
    layers = range(raw["num_hidden_layers"])
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    if window is None:
        return {"sliding_window": None, "window_layers": ()}
    types = raw.get("layer_types")
    if types is not None:
        windowed = tuple(layer for layer in layers if types[layer] == "sliding_attention")
    else:
        windowed = tuple(layer for layer in layers if layer >= raw["max_window_layers"])
    return {"sliding_window": window, "window_layers": windowed}


def _write_windows(config: DecoderConfig) -> dict[str, Any]:
    first = min(config.window_layers, default=config.num_hidden_layers)
    return {
        "use_sliding_window": config.sliding_window is not None,
        "max_window_layers": first,
        "layer_types": layer_types(config),
        "attention_dropout": 0.0,
    }


_DEFAULTS = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    read=lambda raw: {**_windows(raw), "attention_bias": True},
    write=_write_windows,
    defaults=_DEFAULTS,
)

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    read=lambda raw: {**_windows(raw), **biases(raw), "qk_norm": "head"},
    write=lambda config: {**_write_windows(config), "attention_bias": config.attention_bias},
    defaults={**_DEFAULTS, "head_dim": 128},
)


def _qwen3_moe(raw: Mapping[str, Any]) -> dict[str, Any]:
    layers, step = range(raw["num_hidden_layers"]), raw["decoder_sparse_step"]
    dense = set(raw.get("mlp_only_layers") or ()) | {layer for layer in layers if (layer + 1) % step}
    switched_on = raw.get("use_sliding_window")
    return {
        **every_layer(raw if switched_on else {**raw, "sliding_window": None}),
        **biases(raw),
        "qk_norm": "head",
        "num_experts": raw.get("num_local_experts") or raw["num_experts"],  # transformers 5's name, and 4's
        "num_experts_per_tok": raw["num_experts_per_tok"],
        "moe_intermediate_size": raw["moe_intermediate_size"],
        "norm_topk_prob": bool(raw["norm_topk_prob"]),
        "dense_layers": tuple(sorted(dense)),
    }


def _write_qwen3_moe(config: DecoderConfig) -> dict[str, Any]:
    return {
        "use_sliding_window": config.sliding_window is not None,
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size,
        "norm_topk_prob": config.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(config.dense_layers),
    }


QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    read=_qwen3_moe,
    write=_write_qwen3_moe,
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
    },
)
