"""Small networks of every family with random weights, by transformers: what the decoder is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

WINDOW = 7
"""Tokens: shorter than the prompts of the tests."""

_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
}
_GPT2 = {
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 160,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


@dataclass(frozen=True)
class Case:
    """A config class of transformers, and arguments for it."""

    config: str
    model: str
    change: dict[str, Any] = field(default_factory=dict)


def _llama(**change: Any) -> Case:
    return Case("LlamaConfig", "LlamaForCausalLM", change)


CASES = {
    "llama": _llama(),
    "llama-biases": _llama(attention_bias=True, mlp_bias=True, head_dim=24, tie_word_embeddings=True),
    "llama-llama3": _llama(rope_scaling=_LLAMA3, rope_theta=500_000.0),
    "llama-linear": _llama(rope_scaling={"type": "linear", "factor": 4.0}),
    "llama-dynamic": _llama(rope_scaling={"type": "dynamic", "factor": 4.0}),
    "llama-yarn": _llama(rope_scaling=_YARN),
    "mistral": Case("MistralConfig", "MistralForCausalLM", {"sliding_window": WINDOW}),
    "qwen2": Case("Qwen2Config", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen2-windows": Case(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2, "rope_scaling": _YARN},
    ),
    "qwen3": Case("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 24}),
    "gemma2": Case(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            "head_dim": 24,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
        },
    ),
    "gemma3": Case(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "head_dim": 24,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 20,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "phi3": Case("Phi3Config", "Phi3ForCausalLM", {"sliding_window": WINDOW}),
    "phi4-mini": Case(
        "Phi3Config",
        "Phi3ForCausalLM",
        {
            "partial_rotary_factor": 0.75,
            "rope_scaling": _LONG,
            "original_max_position_embeddings": 150,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": Case("Olmo2Config", "Olmo2ForCausalLM"),
    "granite": Case(
        "GraniteConfig",
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.6,
            "attention_multiplier": 0.11,
            "logits_scaling": 1.5,
        },
    ),
    "smollm3": Case("SmolLM3Config", "SmolLM3ForCausalLM", {"no_rope_layer_interval": 2}),
    "gpt2": Case("GPT2Config", "GPT2LMHeadModel", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": Case("GPTNeoXConfig", "GPTNeoXForCausalLM", {"rotary_pct": 0.5}),
    "gpt_neox-serial": Case("GPTNeoXConfig", "GPTNeoXForCausalLM", {"use_parallel_residual": False}),
    "mixtral": Case(
        "MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 5, "num_experts_per_tok": 2}
    ),
    "qwen3_moe": Case(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "head_dim": 24,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
}


_GPT2_HAS_NOT = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_hidden_layers")


def make_theirs(name: str, **change: Any) -> Any:
    """transformers' network of a case, float32, with weights far from a fresh network's regularity."""
    import transformers

    case = CASES[name]
    shape = {**_SHAPE, **case.change, **change}
    if case.config == "GPT2Config":
        shape = {key: value for key, value in shape.items() if key not in _GPT2_HAS_NOT and "num_" not in key}
    config = getattr(transformers, case.config)(**shape)
    config._attn_implementation = "eager"
    network = getattr(transformers, case.model)(config).eval()
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in network.parameters():
            random = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:  # gains and biases, which start alike everywhere
                parameter.add_(0.3 * random)
            else:
                parameter.copy_(0.15 * random)
    return network
