"""Scaled rotary positions in a GGUF file: keys for some scalings, tensors of factors for others.

llama.cpp has no parameters of Llama 3's scaling, only what each pair's frequency is divided by; they are
found again from these.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig, RopeScaling
from platen.models.arch.rope import rope_frequencies
from platen.tokens.gguf_header import GgufHeader

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_ORIGINAL = 8192
"""The context that all of Llama 3's models were first trained for."""


def scaling_metadata(config: DecoderConfig, architecture: str) -> dict[str, Any]:
    """The values under `ARCHITECTURE.`, by the rest of their keys.

    Raises BundleError for a scaling that llama.cpp doesn't have there.
    """
    scaling = config.rope_scaling
    if architecture == "phi3":
        original = config.max_position_embeddings
        found: dict[str, Any] = {"rope.scaling.original_context_length": original}
        if scaling is not None and scaling.kind == "longrope":
            found["rope.scaling.original_context_length"] = scaling.original_max_position_embeddings
            found["rope.scaling.attn_factor"] = scaling.attention_factor
            return found
        if scaling is None:
            return found
    if scaling is None or scaling.kind in ("llama3", "dynamic"):
        return {}
    if scaling.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
    usual = 0.1 * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0
    if scaling.kind == "yarn" and scaling.truncate and math.isclose(scaling.attention_factor, usual):
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": scaling.factor,
            "rope.scaling.original_context_length": scaling.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
        }
    raise BundleError(
        f"llama.cpp's {architecture} has no such {scaling.kind} rotary scaling",
        hint="Serve the bundle itself: platen serve FOLDER --engine torch.",
    )


def scaling_tensors(config: DecoderConfig) -> dict[str, NDArray[np.float32]]:
    """What the file has beside the parameters: divisors of each pair's frequency."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        plain = rope_frequencies(config.rotary_dim, config.rope_theta, None)
        scaled = rope_frequencies(config.rotary_dim, config.rope_theta, scaling)
        return {"rope_freqs.weight": (plain / scaled).numpy().astype(np.float32)}
    if scaling is not None and scaling.kind == "longrope":
        return {
            "rope_factors_long.weight": np.array(scaling.long_factors, np.float32),
            "rope_factors_short.weight": np.array(scaling.short_factors, np.float32),
        }
    return {}


def read_scaling(header: GgufHeader, config: DecoderConfig) -> dict[str, Any]:
    """The fields of the config that a file's keys and factors change.

    Raises BundleError for another scaling, and for factors that Llama 3's doesn't make.
    """
    get = header.of_architecture
    factors = _factors(header)
    kind, factor = get("rope.scaling.type", "linear"), get("rope.scaling.factor", 0.0)
    original = int(get("rope.scaling.original_context_length", config.max_position_embeddings))
    if "rope_freqs.weight" in factors:
        return {"rope_scaling": _llama3(factors["rope_freqs.weight"], config, header)}
    if "rope_factors_long.weight" in factors:
        return {
            "rope_scaling": RopeScaling(
                factor=config.max_position_embeddings / original,
                original_max_position_embeddings=original,
                kind="longrope",
                attention_factor=float(get("rope.scaling.attn_factor", 1.0)),
                short_factors=tuple(map(float, factors["rope_factors_short.weight"])),
                long_factors=tuple(map(float, factors["rope_factors_long.weight"])),
            )
        }
    if kind == "none" or factor in (0.0, 1.0):
        return {}
    if kind == "linear":
        return {"rope_scaling": RopeScaling(factor=factor, kind="linear")}
    if kind != "yarn" or get("rope.scaling.yarn_ext_factor") is not None:
        raise BundleError(
            f"{header.path}: its rotary scaling {kind} can't be imported",
            hint=f"Serve the file itself: platen serve {header.path}",
        )
    return {
        "rope_scaling": RopeScaling(
            factor=factor,
            original_max_position_embeddings=original,
            kind="yarn",
            attention_factor=0.1 * math.log(factor) + 1 if factor > 1 else 1.0,
            beta_fast=get("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=get("rope.scaling.yarn_beta_slow", 1.0),
        )
    }


def _factors(header: GgufHeader) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: np.fromfile(header.path, np.float32, tensor.elements, offset=tensor.offset)
        for tensor in header.tensors
        if tensor.name in ROPE_TENSORS
    }


def _llama3(factors: NDArray[np.float32], config: DecoderConfig, header: GgufHeader) -> RopeScaling:
    """The scaling that divides frequencies by `factors`.

    Between the pairs that are kept and those that are stretched, the share that is kept grows linearly with
    how often the pair turns in the original context, from `low_freq_factor` to `high_freq_factor`.
    """
    largest = float(factors.max())
    frequencies = rope_frequencies(config.rotary_dim, config.rope_theta, None).numpy()
    turns = _ORIGINAL * frequencies / (2 * math.pi)
    kept = (1 / factors - 1 / largest) / (1 - 1 / largest) if largest > 1 else np.ones_like(factors)
    between = (kept > 1e-4) & (kept < 1 - 1e-4)
    guesses = [(1.0, 4.0, _ORIGINAL)]
    guesses += [(1.0, 4.0, 2**power) for power in range(5, 18)]
    if between.sum() >= 2:
        slope, start = np.polyfit(turns[between], kept[between], 1)
        low = -start / slope
        guesses.insert(0, (float(low), float(low + 1 / slope), _ORIGINAL))
    for low, high, original in guesses:
        scaling = RopeScaling(largest, round(low, 4), round(high, 4), original)
        made = torch.tensor(frequencies) / rope_frequencies(config.rotary_dim, config.rope_theta, scaling)
        if np.allclose(made.numpy(), factors, rtol=1e-3):
            return scaling
    raise BundleError(
        f"{header.path}: the factors of its rotary positions are not those of Llama 3's scaling",
        hint=f"Serve the file itself: platen serve {header.path}",
    )
