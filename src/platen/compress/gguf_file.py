"""A bundle as one GGUF file, the format of llama.cpp: weights in its names and order, vocabulary, template.

llama.cpp turns neighbouring pairs (2i, 2i+1) of a head where Hugging Face turns (i, i + D/2), so the rows of
the query and key matrices are reordered.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from platen.errors import BundleError
from platen.models.bundle import Bundle
from platen.models.config import LlamaConfig
from platen.models.llama import rope_frequencies
from platen.tokens.tokenizer import Tokenizer

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
_PRE_TOKENIZERS = {
    # How llama.cpp calls a way to cut text into words: a part of its pattern tells it.
    r"\p{N}{1,3}": "llama-bpe",
    '"Digits"': "smollm",
    '"use_regex":true': "gpt-2",
}


def write_gguf(bundle: Bundle, file: Path, weights: str) -> None:
    """Write `bundle` to `file`; matrices as `weights`, gains in float32.

    Matrices whose rows are no multiple of a block (32) stay float16.
    """
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, bundle.config, bundle.path.name)
    _vocabulary(writer, bundle.tokenizer, bundle.config)
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


def _vocabulary(writer: Any, tokenizer: Tokenizer, config: LlamaConfig) -> None:
    import gguf

    raw = json.loads(tokenizer.raw)
    if raw["model"]["type"] != "BPE" or not raw["model"].get("merges"):
        raise BundleError(
            "GGUF is written for byte-level BPE tokenizers; this one has no merges",
            hint="compile to openvino instead",
        )
    by_id = {id: token for token, id in raw["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, gguf.TokenType.NORMAL)
    for added in raw.get("added_tokens", ()):
        by_id[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    ids = range(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(raw))
    writer.add_token_list([by_id.get(id, f"[PAD{id}]") for id in ids])
    writer.add_token_types([types.get(id, gguf.TokenType.UNUSED) for id in ids])
    merges = raw["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, id in (
        (writer.add_bos_token_id, tokenizer.bos_id),
        (writer.add_eos_token_id, tokenizer.eos_id),
        (writer.add_pad_token_id, tokenizer.pad_id),
    ):
        if id is not None:
            add(id)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(raw: dict[str, Any]) -> str:
    text = json.dumps(raw.get("pre_tokenizer"), separators=(",", ":")).replace("\\\\", "\\")
    return next((name for part, name in _PRE_TOKENIZERS.items() if part in text), "default")
