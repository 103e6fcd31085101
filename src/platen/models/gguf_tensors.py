"""A decoder's parameters in a GGUF file: under which names, fused or stacked, and in what order.

llama.cpp turns neighbouring pairs (2i, 2i+1) of a head in some families where the decoder, as transformers,
turns (i, i + D/2): the rows of their query and key matrices stand in another order there. It keeps Gemma's
norms with the 1 added that the network adds, and the matrices of all experts as one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.parameters import Shape, parameter_shapes

ARCHITECTURES = {
    **{"llama": "llama", "mistral": "llama", "mixtral": "llama", "granite": "granite", "smollm3": "smollm3"},
    **{"qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gemma2": "gemma2"},
    **{"gemma3_text": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "gpt2": "gpt2", "gpt_neox": "gptneox"},
}
"""llama.cpp's architecture of each family."""
_PAIRS = {"llama", "granite", "smollm3"}
_FUSED = {"phi3", "gpt2", "gptneox"}
"""Queries, keys and values in one matrix."""
_NEED_OUTPUT = {"olmo2", "gptneox"}
"""llama.cpp wants the output layer's matrix there also where it is the embedding's."""
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.embed_positions": "position_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class GgufEntry:
    """One tensor of the file and the parameters in it, by name and shape, in order."""

    name: str
    parts: Mapping[str, Shape]
    layout: Literal["rows", "experts"]
    """Several are one below the other, or a matrix an expert."""

    def join(self, config: DecoderConfig, parameters: Mapping[str, Tensor]) -> Tensor:
        """The file's tensor of our parameters."""
        parts = [arranged(config, name, parameters[name], back=False) for name in self.parts]
        if self.layout == "experts":
            return torch.stack(parts)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def first_row(self, name: str) -> int:
        """Where one of its parameters begins, in rows of the last dimension; in numbers if it has but one."""
        row = 0
        for part, shape in self.parts.items():
            if part == name:
                break
            row += shape[0] if len(shape) == 1 else prod(shape[:-1])
        return row

    @property
    def shape(self) -> Shape:
        shapes = list(self.parts.values())
        if self.layout == "experts":
            return (len(shapes), *shapes[0])
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def gguf_entries(config: DecoderConfig) -> dict[str, GgufEntry]:
    """What a file of the network holds, by name. Raises BundleError for a family that llama.cpp lacks."""
    architecture = architecture_of(config)
    found: dict[str, dict[str, Shape]] = {}
    for name, shape in parameter_shapes(config).items():
        found.setdefault(_gguf_name(config, architecture, name), {})[name] = shape
    if config.tie_word_embeddings and architecture in _NEED_OUTPUT:
        found["output.weight"] = found["token_embd.weight"]
    return {
        name: GgufEntry(name, parts, "experts" if "_exps." in name else "rows")
        for name, parts in found.items()
    }


def architecture_of(config: DecoderConfig) -> str:
    """llama.cpp's name for the network. Raises BundleError for a family that it lacks."""
    if config.family not in ARCHITECTURES:
        raise BundleError(
            f"a model of the family {config.family} can't be written as GGUF",
            hint=f"These can: {', '.join(sorted(ARCHITECTURES))}.",
        )
    return ARCHITECTURES[config.family]


def _gguf_name(config: DecoderConfig, architecture: str, name: str) -> str:
    module, _, suffix = name.rpartition(".")
    layer = _LAYER.fullmatch(module)
    if layer is None:
        return f"{_NAMES[module]}.{suffix}"
    inner = re.sub(r"(?<=experts)\.\d+", "", layer[2])
    if inner == "post_attention_layernorm":
        found = "ffn_norm" if config.norm_placement == "pre" else "post_attention_norm"
    elif architecture in _FUSED and inner in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        found = "attn_qkv"
    elif architecture == "phi3" and inner == "mlp.gate_proj":
        found = "ffn_up"
    else:
        found = _NAMES[inner]
    return f"blk.{layer[1]}.{found}.{suffix}"


def arranged(config: DecoderConfig, name: str, tensor: Tensor, *, back: bool) -> Tensor:
    """A parameter as the file has it, or `back`. A norm's gain comes out in float32."""
    if ARCHITECTURES[config.family] in _PAIRS:
        if ".q_proj." in name:
            return _pairs(tensor, config.num_attention_heads, back=back)
        if ".k_proj." in name:
            return _pairs(tensor, config.num_key_value_heads, back=back)
    if config.norm_offset and name.endswith("norm.weight"):
        return tensor.float() + (-config.norm_offset if back else config.norm_offset)
    return tensor


def _pairs(tensor: Tensor, heads: int, *, back: bool) -> Tensor:
    """Rows of each head from (half, pair) to (pair, half), or back."""
    half = tensor.shape[0] // heads // 2
    split = (heads, half, 2) if back else (heads, 2, half)
    return tensor.reshape(*split, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
