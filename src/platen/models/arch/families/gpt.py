"""GPT-2 and GPT-NeoX (Pythia): LayerNorms, biases, plain feed-forward layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.table import Family, Tensor

_COMMON: dict[str, Any] = {"norm": "layer", "gated_mlp": False, "mlp_bias": True}


def _gpt2(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_COMMON,
        "attention_bias": True,
        "output_bias": True,
        "positions": "learned",
        "attention_scale": None if raw["scale_attn_weights"] else 1.0,
        "scale_by_inverse_layer": bool(raw.get("scale_attn_by_inverse_layer_idx")),
    }


def _write_gpt2(config: DecoderConfig) -> dict[str, Any]:
    return {
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "scale_attn_weights": config.attention_scale is None,
        "scale_attn_by_inverse_layer_idx": config.scale_by_inverse_layer,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


_LAYER = r"model\.layers\.(\d+)\."
GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    read=_gpt2,
    write=_write_gpt2,
    defaults={
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "bos_token_id": 50_256,
        "eos_token_id": 50_256,
    },
    computed={"add_cross_attention": (False,)},
    inner_factor=4,
    names={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": "n_positions",
        "sliding_window": None,
        "norm_eps": "layer_norm_epsilon",
        "activation": "activation_function",
    },
    tensors=(
        Tensor(r"model\.embed_tokens\.weight", "transformer.wte.weight"),
        Tensor(r"model\.embed_positions\.weight", "transformer.wpe.weight"),
        Tensor(_LAYER + r"input_layernorm\.(weight|bias)", r"transformer.h.\1.ln_1.\2"),
        Tensor(_LAYER + r"post_attention_layernorm\.(weight|bias)", r"transformer.h.\1.ln_2.\2"),
        Tensor(
            _LAYER + r"self_attn\.[qkv]_proj\.(weight|bias)", r"transformer.h.\1.attn.c_attn.\2", "columns"
        ),
        Tensor(_LAYER + r"self_attn\.o_proj\.(weight|bias)", r"transformer.h.\1.attn.c_proj.\2", "columns"),
        Tensor(_LAYER + r"mlp\.up_proj\.(weight|bias)", r"transformer.h.\1.mlp.c_fc.\2", "columns"),
        Tensor(_LAYER + r"mlp\.down_proj\.(weight|bias)", r"transformer.h.\1.mlp.c_proj.\2", "columns"),
        Tensor(r"model\.norm\.(weight|bias)", r"transformer.ln_f.\1"),
    ),
    known_as=((r"^(?=wte\.|wpe\.|h\.|ln_f\.)", "transformer."),),
    ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),
)


def _neox(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = bool(raw["attention_bias"])
    parameters = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    return {
        **_COMMON,
        "attention_bias": bias,
        "output_bias": bias,
        "parallel_residual": bool(raw["use_parallel_residual"]),
        "rope_theta": float(parameters.get("rope_theta") or raw.get("rope_theta") or raw["rotary_emb_base"]),
        "rotary_factor": float(parameters.get("partial_rotary_factor") or raw["rotary_pct"]),
    }


def _write_neox(config: DecoderConfig) -> dict[str, Any]:
    return {
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "use_parallel_residual": config.parallel_residual,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rotary_factor,
    }


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    read=_neox,
    write=_write_neox,
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_bias": True,
        "use_parallel_residual": True,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10_000.0,
    },
    names={
        "num_key_value_heads": None,
        "head_dim": None,
        "sliding_window": None,
        "norm_eps": "layer_norm_eps",
    },
    tensors=(
        Tensor(r"model\.embed_tokens\.weight", "gpt_neox.embed_in.weight"),
        Tensor(
            _LAYER + r"(input_layernorm|post_attention_layernorm)\.(weight|bias)", r"gpt_neox.layers.\1.\2.\3"
        ),
        Tensor(
            _LAYER + r"self_attn\.[qkv]_proj\.(weight|bias)",
            r"gpt_neox.layers.\1.attention.query_key_value.\2",
            "heads",
        ),
        Tensor(_LAYER + r"self_attn\.o_proj\.(weight|bias)", r"gpt_neox.layers.\1.attention.dense.\2"),
        Tensor(_LAYER + r"mlp\.up_proj\.(weight|bias)", r"gpt_neox.layers.\1.mlp.dense_h_to_4h.\2"),
        Tensor(_LAYER + r"mlp\.down_proj\.(weight|bias)", r"gpt_neox.layers.\1.mlp.dense_4h_to_h.\2"),
        Tensor(r"model\.norm\.(weight|bias)", r"gpt_neox.final_layer_norm.\1"),
        Tensor(r"lm_head\.weight", "embed_out.weight"),
    ),
    known_as=((r"^(?=embed_in\.|layers\.|final_layer_norm\.)", "gpt_neox."), (r"^lm_head\.", "embed_out.")),
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.(masked_)?bias",),
)
