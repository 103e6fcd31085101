"""A network's shape as a GGUF file's metadata, and back: llama.cpp's keys for a `DecoderConfig`.

What llama.cpp computes otherwise than the network is refused by name. It ignores the windows of Mistral and
Phi-3, so their context is written as one window long, within which there is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.families import families
from platen.models.arch.families.table import Family
from platen.models.gguf_rope import read_scaling, scaling_metadata
from platen.models.gguf_tensors import ARCHITECTURES, architecture_of
from platen.tokens.gguf_header import GgufHeader

_COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
"""Keys of whole numbers, and our fields."""
_WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}
"""Every so many layers one has no window, unless the file tells them one by one."""
_LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the models of 27 billion, whose scores llama.cpp scales by their width over their heads."""
_NO_WINDOWS = ("llama", "qwen2", "qwen3", "qwen3moe", "phi3", "smollm3")


def metadata_of(config: DecoderConfig) -> dict[str, Any]:
    """The values under `ARCHITECTURE.`, by the rest of their keys.

    Raises BundleError naming what llama.cpp would compute otherwise.
    """
    architecture = architecture_of(config)
    _refuse(config, architecture)
    found: dict[str, Any] = {key: getattr(config, name) for key, name in _COMMON.items()}
    found["vocab_size"] = config.vocab_size
    norm = "layer_norm_epsilon" if config.norm == "layer" else "layer_norm_rms_epsilon"
    found[f"attention.{norm}"] = config.norm_eps
    if config.positions == "rotary":
        found["rope.freq_base"] = config.rope_theta
        found["rope.dimension_count"] = config.rotary_dim
        found["attention.key_length"] = found["attention.value_length"] = config.head_dim
        found |= scaling_metadata(config, architecture)
    if config.num_experts:
        found |= {"expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok}
        if architecture == "llama":
            found["feed_forward_length"] = config.moe_intermediate_size
        else:
            found["expert_feed_forward_length"] = config.moe_intermediate_size
    return found | _special(config, architecture) | _windows(config, architecture)


def _special(config: DecoderConfig, architecture: str) -> dict[str, Any]:
    """The keys that one family has alone."""
    if architecture == "granite":
        return {
            "attention.scale": config.scale(0),
            "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier,
            "logit_scale": config.logits_divisor,
        }
    if architecture == "gptneox":
        return {"use_parallel_residual": config.parallel_residual}
    found: dict[str, Any] = {}
    if config.attention_softcap is not None:
        found["attn_logit_softcapping"] = float(config.attention_softcap)
    if config.final_softcap is not None:
        found["final_logit_softcapping"] = float(config.final_softcap)
    if architecture == "gemma3" and config.local_rope_theta not in (None, 10_000.0):
        found["rope.freq_base_swa"] = config.local_rope_theta
    return found


def _windows(config: DecoderConfig, architecture: str) -> dict[str, Any]:
    window = config.sliding_window
    if window is None or window >= config.max_position_embeddings:
        return {}
    if architecture in _NO_WINDOWS:
        return {"context_length": window}
    layers = range(config.num_hidden_layers)
    found: dict[str, Any] = {"attention.sliding_window": window}
    period = _WINDOW_PERIOD[architecture]
    if config.window_layers != tuple(layer for layer in layers if (layer + 1) % period):
        found["attention.sliding_window_pattern"] = [layer in config.window_layers for layer in layers]
    return found


def _refuse(config: DecoderConfig, architecture: str) -> None:
    layers = range(config.num_hidden_layers)
    gelu = architecture in ("gemma2", "gemma3", "gpt2", "gptneox")
    scale = _assumed_scale(config, architecture)
    wrong = {
        f"the activation {config.activation}": config.activation
        not in (("gelu_tanh", "gelu") if gelu else ("silu",)),
        f"attention scores multiplied by {config.scale(0):.4g}": scale is not None
        and not math.isclose(config.scale(0), scale, rel_tol=1e-5),
        "scores divided by the layer's number": config.scale_by_inverse_layer,
        "experts whose weights don't add up to 1": config.num_experts > 0 and not config.norm_topk_prob,
        "layers without experts among those with": bool(config.num_experts and config.dense_layers),
        "positions left out in other layers than every fourth": architecture == "smollm3"
        and config.unrotated_layers != tuple(layer for layer in layers if layer % 4 == 3),
        "an output layer of its own": architecture == "gemma2" and not config.tie_word_embeddings,
        "heads of another width than hidden_size / heads": architecture
        in ("phi3", "olmo2", "gpt2", "gptneox")
        and config.head_dim * config.num_attention_heads != config.hidden_size,
        "no biases": architecture in ("gpt2", "gptneox") and not config.attention_bias,
        "biases in attention": architecture in ("gemma2", "gemma3", "olmo2", "phi3")
        and config.attention_bias,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise BundleError(
                f"llama.cpp's {architecture} can't compute this network: {what}",
                hint="Serve the bundle itself (platen serve FOLDER --engine torch), or compile to openvino.",
            )


def _assumed_scale(config: DecoderConfig, architecture: str) -> float | None:
    """What llama.cpp multiplies scores by; None where the file says it."""
    if architecture == "granite":
        return None
    if config.num_hidden_layers == _LARGEST.get(architecture):
        return float((config.hidden_size // config.num_attention_heads) ** -0.5)
    return float(config.head_dim**-0.5)


def config_of(header: GgufHeader, tensors: Mapping[str, tuple[int, ...]]) -> DecoderConfig:
    """The network that a file's metadata describe; `tensors` are the shapes of all its files, by name.

    Raises BundleError for an architecture that can't be imported.
    """
    family = families()[_family(header)]
    raw: dict[str, Any] = {"model_type": family.name, "architectures": [family.architecture]}

    def put(name: str, value: Any) -> None:
        key = family.names.get(name, name)
        if key is not None and value is not None:
            raw[key] = value

    for key, name in _COMMON.items():
        put(name, _one(header, header.of_architecture(key)))
    heads = raw[family.names.get("num_attention_heads") or "num_attention_heads"]
    if "num_key_value_heads" not in raw:
        put("num_key_value_heads", heads)
    put("vocab_size", tensors["token_embd.weight"][0])
    put(
        "head_dim",
        header.of_architecture("attention.key_length", header.of_architecture("embedding_length") // heads),
    )
    norm = "layer_norm" if header.of_architecture("attention.layer_norm_epsilon") else "layer_norm_rms"
    epsilon = family.names.get("norm_eps", "rms_norm_eps")
    raw[str(epsilon)] = header.of_architecture(f"attention.{norm}_epsilon")
    put("tie_word_embeddings", "output.weight" not in tensors)
    for name in ("attention_bias", "mlp_bias"):
        probe = {"attention_bias": ("attn_q.bias", "attn_qkv.bias"), "mlp_bias": ("ffn_up.bias",)}[name]
        raw[name] = any(f"blk.0.{tensor}" in tensors for tensor in probe)
    _put_special(raw, header, family)
    config = DecoderConfig.from_hf(raw)
    rope = read_scaling(header, config)
    return replace(config, **rope) if rope else config


def _family(header: GgufHeader) -> str:
    if header.architecture == "llama":
        return "mixtral" if header.of_architecture("expert_count") else "llama"
    for family, architecture in ARCHITECTURES.items():
        if architecture == header.architecture:
            return family
    raise BundleError(
        f"{header.path}: networks of the architecture {header.architecture} can't be imported",
        hint=f"These can: {', '.join(sorted(set(ARCHITECTURES.values())))}. "
        f"Serve the file itself: platen serve {header.path}",
    )


def _one(header: GgufHeader, value: Any) -> Any:
    """A number that may be given layer by layer."""
    if isinstance(value, list | tuple):
        if len(set(value)) != 1:
            raise BundleError(
                f"{header.path}: its layers differ in shape, which {header.architecture} in Platen doesn't",
                hint=f"Serve the file itself: platen serve {header.path}",
            )
        return value[0]
    return value


def _put_special(raw: dict[str, Any], header: GgufHeader, family: Family) -> None:
    """The keys of a `config.json` that one family has alone."""
    get, layers = header.of_architecture, range(header.of_architecture("block_count"))
    architecture = header.architecture
    raw["rope_theta"] = get("rope.freq_base", 10_000.0)
    raw["sliding_window"] = None
    if architecture == "granite":
        raw |= {
            "attention_multiplier": get("attention.scale", raw["head_dim"] ** -0.5),
            "embedding_multiplier": get("embedding_scale", 1.0),
            "residual_multiplier": get("residual_scale", 1.0),
            "logits_scaling": get("logit_scale", 1.0),
        }
    elif architecture in _WINDOW_PERIOD:
        _put_gemma(raw, header)
    elif architecture in ("phi3", "gptneox"):
        width = raw["hidden_size"] // raw["num_attention_heads"]
        share = get("rope.dimension_count", width) / width
        raw |= {"partial_rotary_factor": share, "rotary_pct": share, "rotary_emb_base": raw["rope_theta"]}
        raw |= {"use_parallel_residual": get("use_parallel_residual", True)}
        raw["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
        if raw["original_max_position_embeddings"] is None:
            del raw["original_max_position_embeddings"]
    elif architecture == "smollm3":
        raw["no_rope_layers"] = [int(layer % 4 != 3) for layer in layers]
    if get("expert_count"):
        raw |= {"num_local_experts": get("expert_count"), "num_experts_per_tok": get("expert_used_count")}
        raw["moe_intermediate_size"] = get("expert_feed_forward_length", raw["intermediate_size"])
        raw["norm_topk_prob"] = True


def _put_gemma(raw: dict[str, Any], header: GgufHeader) -> None:
    get, architecture = header.of_architecture, header.architecture
    layers = range(header.of_architecture("block_count"))
    raw["sliding_window"] = get("attention.sliding_window", 4096 if architecture == "gemma2" else None)
    pattern = get("attention.sliding_window_pattern", _WINDOW_PERIOD[architecture])
    if isinstance(pattern, int):
        pattern = [bool((layer + 1) % pattern) for layer in layers]
    raw["layer_types"] = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    raw["final_logit_softcapping"] = get("final_logit_softcapping")
    raw["attn_logit_softcapping"] = get("attn_logit_softcapping")
    if architecture == "gemma3":
        raw["rope_local_base_freq"] = get("rope.freq_base_swa", 10_000.0)
    largest = len(layers) == _LARGEST[architecture]
    raw["query_pre_attn_scalar"] = (
        raw["hidden_size"] // raw["num_attention_heads"] if largest else raw["head_dim"]
    )
