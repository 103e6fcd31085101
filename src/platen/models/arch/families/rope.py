"""Rotary positions in a `config.json`: transformers 5's `rope_parameters`, or 4's `rope_theta` and others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig, RopeScaling

_TAKE_AGAIN = "Take config.json again from where the model comes from."
_KINDS = ("default", "llama3", "linear", "dynamic", "yarn", "longrope")


def read_rope(raw: Mapping[str, Any], window: int, default_theta: float) -> dict[str, Any]:
    """The fields rope_theta, rope_scaling, rotary_factor and local_rope_theta."""
    parameters = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise BundleError(f"config.json: rope scaling is {parameters!r}, not an object", hint=_TAKE_AGAIN)
    local = raw.get("rope_local_base_freq")
    if isinstance(parameters.get("full_attention"), Mapping):  # each kind of layer has its own
        sliding = parameters.get("sliding_attention") or {}
        local = sliding.get("rope_theta", local)
        parameters = parameters["full_attention"]
    theta = parameters.get("rope_theta") or raw.get("rope_theta") or default_theta
    factor = parameters.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    try:
        return {
            "rope_theta": float(theta),
            "rope_scaling": _scaling(parameters, raw, window),
            "rotary_factor": float(factor),
            "local_rope_theta": None if local is None else float(local),
        }
    except KeyError as missing:
        complaint = f"rope scaling {_kind(parameters)} has no {missing.args[0]}"
    except (TypeError, ValueError) as error:
        complaint = f"rope scaling {_kind(parameters)}: {error}"
    raise BundleError(f"config.json: {complaint}", hint=_TAKE_AGAIN)


def _kind(parameters: Mapping[str, Any]) -> str:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    return "longrope" if kind == "su" else str(kind)  # Phi-3's first name for it


def _scaling(parameters: Mapping[str, Any], raw: Mapping[str, Any], window: int) -> RopeScaling | None:
    kind = _kind(parameters)
    if kind not in _KINDS:
        raise BundleError(
            f"rope type {kind!r} is not supported", hint=f"Platen computes {', '.join(_KINDS)} rope."
        )
    if kind == "default":
        return None
    if kind == "longrope" or (kind == "yarn" and "long_factor" in parameters):
        return _longrope(parameters, raw, window)
    factor = float(parameters["factor"])
    if kind == "linear":
        return RopeScaling(factor=factor, kind="linear")
    if kind == "dynamic":
        return RopeScaling(factor=factor, kind="dynamic")
    if kind == "yarn":
        return _yarn(parameters, raw, window, factor)
    return RopeScaling(
        factor=factor,
        low_freq_factor=float(parameters["low_freq_factor"]),
        high_freq_factor=float(parameters["high_freq_factor"]),
        original_max_position_embeddings=int(parameters["original_max_position_embeddings"]),
    )


def _original(parameters: Mapping[str, Any], raw: Mapping[str, Any], window: int) -> int:
    """The context that the frequencies were first trained for; Phi-3 has it beside the scaling."""
    key = "original_max_position_embeddings"
    return int(raw.get(key) or parameters.get(key) or window)


def _yarn(parameters: Mapping[str, Any], raw: Mapping[str, Any], window: int, factor: float) -> RopeScaling:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = parameters.get("attention_factor")
    if attention is None:
        above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
        attention = magnitude(above) / magnitude(below) if above and below else magnitude(1.0)
    return RopeScaling(
        factor=factor,
        original_max_position_embeddings=_original(parameters, raw, window),
        kind="yarn",
        attention_factor=float(attention),
        beta_fast=float(parameters.get("beta_fast") or 32),
        beta_slow=float(parameters.get("beta_slow") or 1),
        truncate=bool(parameters.get("truncate", True)),
    )


def _longrope(parameters: Mapping[str, Any], raw: Mapping[str, Any], window: int) -> RopeScaling:
    original = _original(parameters, raw, window)
    factor = float(parameters.get("factor") or window / original)
    attention = parameters.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        factor=factor,
        original_max_position_embeddings=original,
        kind="longrope",
        attention_factor=float(attention),
        short_factors=tuple(map(float, parameters["short_factor"])),
        long_factors=tuple(map(float, parameters["long_factor"])),
    )


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """The keys of transformers 4, which 5, vLLM and llama.cpp read too."""
    keys: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": _written(config.rope_scaling)}
    if config.rotary_factor != 1.0:
        keys["partial_rotary_factor"] = config.rotary_factor
    if config.local_rope_theta is not None:
        keys["rope_local_base_freq"] = config.local_rope_theta
    return keys


def _written(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    keys: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn", "longrope"):
        keys["original_max_position_embeddings"] = scaling.original_max_position_embeddings
    if scaling.kind == "llama3":
        keys |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind in ("yarn", "longrope"):
        keys["attention_factor"] = scaling.attention_factor
    if scaling.kind == "yarn":
        keys |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
    if scaling.kind == "longrope":
        keys |= {
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
        }
    return keys
