"""Phi-3 and Phi-4: Llama with its projections fused."""

from __future__ import annotations

from typing import Any

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.llama import every_layer
from platen.models.arch.families.table import Family, Tensor


def _write(config: DecoderConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    original = scaling.original_max_position_embeddings if scaling else config.max_position_embeddings
    return {
        "attention_dropout": 0.0,
        "original_max_position_embeddings": original,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    read=every_layer,
    write=_write,
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32_000,
        "pad_token_id": 32_000,
    },
    tensors=(
        Tensor(r"(model\.layers\.\d+\.self_attn)\.[qkv]_proj\.weight", r"\1.qkv_proj.weight"),
        Tensor(r"(model\.layers\.\d+\.mlp)\.(?:gate|up)_proj\.weight", r"\1.gate_up_proj.weight"),
    ),
)
