"""A bundle as one GGUF file, the format of llama.cpp: weights in its names and order, vocabulary, template.

llama.cpp turns neighbouring pairs (2i, 2i+1) of a head where Hugging Face turns (i, i + D/2), so the rows of
the query and key matrices are reordered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from platen.models.bundle import Bundle
from platen.models.llama import rope_frequencies
from platen.models.llama_config import LlamaConfig
from platen.tokens.gguf_write_vocabulary import add_vocabulary

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_gguf(bundle: Bundle, file: Path, weights: str) -> None:
    """Write `bundle` to `file`; matrices as `weights`, gains in float32.

    Matrices whose rows are no multiple of a block (32) stay float16.
    """
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, bundle.config, bundle.path.name)
    add_vocabulary(writer, bundle.tokenizer, bundle.config.vocab_size)
    for name, tensor in bundle.model.state_dict().items():
        _add(writer, _renamed(name), _reordered(name, tensor.float(), bundle.config).numpy(), weights)
    if bundle.config.rope_scaling is not None:
        config = bundle.config
        plain = rope_frequencies(config.head_dim, config.rope_theta, None)
        scaled = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _renamed(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER[part.removesuffix('.weight')]}.weight"


def _reordered(name: str, tensor: Tensor, config: LlamaConfig) -> Tensor:
    """Query and key rows from Hugging Face's order to llama.cpp's."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for projection, count in heads.items():
        if projection in name:
            halves = tensor.reshape(count, 2, config.head_dim // 2, -1)
            return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _add(writer: Any, name: str, values: NDArray[np.float32], weights: str) -> None:
    import gguf

    if values.ndim == 1:
        writer.add_tensor(name, values)
        return
    kind = {
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
        "f16": gguf.GGMLQuantizationType.F16,
        "bf16": gguf.GGMLQuantizationType.BF16,
    }[weights]
    if weights == "q8_0" and values.shape[-1] % 32:
        kind = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _describe(writer: Any, config: LlamaConfig, name: str) -> None:
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
