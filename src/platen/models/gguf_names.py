"""The tensors of each family: their names in a Hugging Face folder and in a GGUF file, and what differs.

llama.cpp turns neighbouring pairs (2i, 2i+1) of a head in some families where Hugging Face turns
(i, i + D/2), so the rows of their query and key matrices stand in another order; it keeps Gemma's norms with
the 1 added that the network adds, GPT-2's matrices transposed, GPT-NeoX's joined projection one kind after
the other, and all experts' matrices as one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from platen.core.errors import BundleError


@dataclass(frozen=True)
class Family:
    """One architecture of transformers as one of llama.cpp's.

    `modules` has the names without `.weight` and `.bias`; `{n}` is a layer's number, `{e}` an expert's.
    """

    architecture: str
    hf: str
    model_type: str
    modules: Mapping[str, str]
    pairs: bool = False
    """Heads turn neighbouring pairs in llama.cpp."""
    norms_from_zero: bool = False
    """A norm's gain is 1 plus its weight in transformers."""
    transposed: tuple[str, ...] = ()
    needs_output: bool = False
    """llama.cpp wants the output matrix also where it is the embedding's."""

    @cached_property
    def back(self) -> dict[str, str]:
        """From the GGUF file's module names to the folder's."""
        return {gguf: hf for hf, gguf in self.modules.items()}

    def to_gguf(self, name: str) -> tuple[str, int | None]:
        """A folder's tensor in a GGUF file: its name, and which expert's part of it this is.

        Raises BundleError for a tensor that the family doesn't have.
        """
        module, _, suffix = name.rpartition(".")
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        template = _templated(module, numbers)
        if template not in self.modules:
            raise BundleError(
                f"llama.cpp has no place for the tensor {name} in {self.architecture}",
                hint="Serve the bundle itself: platen serve FOLDER --engine torch.",
            )
        layer = numbers[0] if numbers else ""
        expert = int(numbers[1]) if len(numbers) > 1 else None
        return f"{self.modules[template].format(n=layer)}.{suffix}", expert

    def from_gguf(self, name: str, experts: int) -> list[str]:
        """The folder's names for a GGUF file's tensor: one, or one an expert.

        Raises BundleError for a tensor that the family doesn't have.
        """
        module, _, suffix = name.rpartition(".")
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        template = _templated(module, numbers)
        if template not in self.back:
            raise BundleError(
                f"it has a tensor {name}, which {self.hf} doesn't have",
                hint="Serve the file itself: platen serve FILE.gguf.",
            )
        found = self.back[template]
        layer = numbers[0] if numbers else ""
        each = range(experts) if "{e}" in found else range(1)
        return [f"{found.format(n=layer, e=expert)}.{suffix}" for expert in each]


def _templated(module: str, numbers: list[str]) -> str:
    """`model.layers.3.mlp` as `model.layers.{n}.mlp`."""
    for number, mark in zip(numbers, ("{n}", "{e}"), strict=False):
        module = re.sub(rf"(?<=\.){number}(?=\.|$)", mark, module, count=1)
    return module


def arranged(family: Family, name: str, tensor: Tensor, heads: int, kv_heads: int, *, back: bool) -> Tensor:
    """A folder's tensor `name` as the GGUF file has it; `back` for the other way.

    `heads` of queries, `kv_heads` of keys and values.
    """
    if family.pairs and name.endswith(("q_proj.weight", "q_proj.bias")):
        return _pairs(tensor, heads, back=back)
    if family.pairs and name.endswith(("k_proj.weight", "k_proj.bias")):
        return _pairs(tensor, kv_heads, back=back)
    if family.norms_from_zero and name.endswith("norm.weight"):
        return tensor.float() + (-1 if back else 1)
    if name.endswith(family.transposed) and family.transposed:
        return tensor.T
    if ".query_key_value." in name:
        return _joined(tensor, heads, back=back)
    return tensor


def _pairs(tensor: Tensor, heads: int, *, back: bool) -> Tensor:
    """Rows of each head from (half, pair) to (pair, half), or back."""
    half = tensor.shape[0] // heads // 2
    split = (heads, half, 2) if back else (heads, 2, half)
    return tensor.reshape(*split, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _joined(tensor: Tensor, heads: int, *, back: bool) -> Tensor:
    """Rows of queries, keys and values from head by head to kind by kind, or back."""
    size = tensor.shape[0] // heads // 3
    split = (3, heads, size) if back else (heads, 3, size)
    return tensor.reshape(*split, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)


def stacked(parts: list[Tensor]) -> Tensor:
    """All experts' matrices as one tensor (E, rows, columns)."""
    return torch.stack(parts)


_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER, _BLOCK = "model.layers.{n}.", "blk.{n}."
_ATTENTION = {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"} | {
    "self_attn.o_proj": "attn_output"
}
_MLP = {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_NORMS_AFTER = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GEMMA_NORMS = {"input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm"} | _NORMS_AFTER
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}


def _layered(*parts: Mapping[str, str]) -> dict[str, str]:
    inner = {f"{_LAYER}{hf}": f"{_BLOCK}{gguf}" for part in parts for hf, gguf in part.items()}
    return _TOP | inner


_LLAMA = _layered(_NORMS, _ATTENTION, _MLP)
_MIXTRAL = _layered(
    _NORMS,
    _ATTENTION,
    {"block_sparse_moe.gate": "ffn_gate_inp"},
    {
        f"block_sparse_moe.experts.{{e}}.{hf}": f"ffn_{name}_exps"
        for hf, name in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    },
)
_QWEN3_MOE = _layered(
    _NORMS,
    _ATTENTION,
    _HEAD_NORMS,
    {"mlp.gate": "ffn_gate_inp"},
    {f"mlp.experts.{{e}}.{name}_proj": f"ffn_{name}_exps" for name in ("gate", "up", "down")},
)
_PHI3 = _layered(
    _NORMS,
    {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output"},
    {"mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
)
_GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
} | {
    f"transformer.h.{{n}}.{hf}": f"{_BLOCK}{gguf}"
    for hf, gguf in (
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    )
}
_GPT_NEOX = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
} | {
    f"gpt_neox.layers.{{n}}.{hf}": f"{_BLOCK}{gguf}"
    for hf, gguf in (
        ("input_layernorm", "attn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    )
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_GEMMA2 = _layered(_GEMMA_NORMS, _ATTENTION, _MLP)
_GEMMA3 = _layered(_GEMMA_NORMS, _ATTENTION, _HEAD_NORMS, _MLP)
_OLMO2 = _layered(_NORMS_AFTER, _ATTENTION, _HEAD_NORMS, _MLP)
_QWEN3 = _layered(_NORMS, _ATTENTION, _HEAD_NORMS, _MLP)

FAMILIES = (
    Family("llama", "LlamaForCausalLM", "llama", _LLAMA, pairs=True),
    Family("llama", "MistralForCausalLM", "mistral", _LLAMA, pairs=True),
    Family("llama", "MixtralForCausalLM", "mixtral", _MIXTRAL, pairs=True),
    Family("qwen2", "Qwen2ForCausalLM", "qwen2", _LLAMA),
    Family("qwen3", "Qwen3ForCausalLM", "qwen3", _QWEN3),
    Family("qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", _QWEN3_MOE),
    Family("gemma2", "Gemma2ForCausalLM", "gemma2", _GEMMA2, norms_from_zero=True),
    Family("gemma3", "Gemma3ForCausalLM", "gemma3_text", _GEMMA3, norms_from_zero=True),
    Family("phi3", "Phi3ForCausalLM", "phi3", _PHI3),
    Family("olmo2", "Olmo2ForCausalLM", "olmo2", _OLMO2, needs_output=True),
    Family("granite", "GraniteForCausalLM", "granite", _LLAMA, pairs=True),
    Family("smollm3", "SmolLM3ForCausalLM", "smollm3", _LLAMA, pairs=True),
    Family("gpt2", "GPT2LMHeadModel", "gpt2", _GPT2, transposed=_CONV1D),
    Family("gptneox", "GPTNeoXForCausalLM", "gpt_neox", _GPT_NEOX, needs_output=True),
)


def family_of_config(raw: Mapping[str, object]) -> Family:
    """The family of a `config.json`. Raises BundleError for one that isn't written as GGUF."""
    architectures = raw.get("architectures")
    found = architectures[0] if isinstance(architectures, list) and architectures else None
    for family in FAMILIES:
        if found == family.hf or (found is None and raw.get("model_type") == family.model_type):
            return family
    raise BundleError(
        f"{found or raw.get('model_type')} can't be written as GGUF",
        hint=f"These can: {', '.join(_listed())}. llama.cpp's convert_hf_to_gguf.py may know it.",
    )


def family_of_gguf(architecture: str, experts: int) -> Family:
    """The family of a GGUF file's architecture. Raises BundleError for one that isn't imported."""
    if architecture == "llama":
        wanted = "MixtralForCausalLM" if experts else "LlamaForCausalLM"
        return next(family for family in FAMILIES if family.hf == wanted)
    found = next((family for family in FAMILIES if family.architecture == architecture), None)
    if found is None:
        raise BundleError(
            f"networks of the architecture {architecture} can't be imported",
            hint=f"These can: {', '.join(sorted({f.architecture for f in FAMILIES}))}. "
            "Serve the file itself: platen serve FILE.gguf.",
        )
    return found


def _listed() -> Iterator[str]:
    return (family.hf for family in FAMILIES)
