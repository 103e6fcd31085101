"""LoRA adapters in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`.

An adapter adds a product of two narrow matrices to a projection: y = W x + s B A x (Hu et al., "LoRA:
Low-Rank Adaptation of Large Language Models", 2021). What can't be applied exactly is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.parameters import projection_shapes
from platen.models.arch.tensors import Stored, stored_tensors
from platen.models.folder import read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Each changes what an adapter computes, or the weights beneath it, beyond y + s B A x.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)


@dataclass(frozen=True, eq=False)
class Adapter:
    """`weights` maps a projection's name to A (r, I) and B (O, r), the scale already in B."""

    fingerprint: str
    weights: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """The largest of its projections'."""
        return max(a.shape[0] for a, _ in self.weights.values())

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.weights.values() for t in pair)


def read_adapter(
    folder: Path, config: DecoderConfig, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Adapter:
    """An adapter for a model of this shape. Raises BundleError: none, damaged, unsupported, wrong shapes."""
    if not folder.is_dir():
        raise BundleError(f"there is no adapter folder {folder}", hint=f"Give a folder with {CONFIG_FILE}.")
    settings = read_json(folder / CONFIG_FILE)
    _check_settings(folder, settings)
    stored = _read_weights(folder / WEIGHTS_FILE)
    adaptable = _adaptable(config)
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for name in sorted({key.split(".lora_")[0] for key in stored}):
        module = adaptable.get(name)
        if module is None:
            raise BundleError(
                f"{folder} changes {name}, which this model doesn't have or can't adapt",
                hint="An adapter can change the projections of its own base model's layers, but not experts.",
            )
        rank, scale = _rank_and_scale(folder, settings, name)
        inputs = next(iter(module.parts.values()))[1]
        outputs = sum(shape[0] for shape in module.parts.values())
        a = _taken(folder, stored, f"{name}.lora_A.weight", (rank, inputs))
        b = _taken(folder, stored, f"{name}.lora_B.weight", (outputs, rank))
        a, scaled = a.to(device, dtype).contiguous(), (b.float() * scale).to(device, dtype)
        for part, rows in module.split_outputs(scaled).items():
            weights[part.removesuffix(".weight")] = (a, rows.contiguous())
    if stored:
        raise BundleError(
            f"{folder / WEIGHTS_FILE} has a tensor {sorted(stored)[0]}, which is no part of a LoRA adapter",
            hint="Save the adapter again with PEFT's save_pretrained.",
        )
    if not weights:
        raise BundleError(f"{folder / WEIGHTS_FILE} changes nothing", hint="Train the adapter and save it.")
    return Adapter(_fingerprint(settings, folder / WEIGHTS_FILE), weights)


def _adaptable(config: DecoderConfig) -> dict[str, Stored]:
    """The projections by their names in the family's own network, where several of ours may be one."""
    ours = {f"{name}.weight" for name in projection_shapes(config)}
    return {
        name.removesuffix(".weight"): stored
        for name, stored in stored_tensors(config).items()
        if ours.issuperset(stored.parts)
    }


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    file = folder / CONFIG_FILE
    if settings.get("peft_type") != "LORA":
        raise BundleError(
            f"{file} is of the type {settings.get('peft_type')!r}", hint="Platen serves LORA adapters."
        )
    unsupported = [key for key in _UNSUPPORTED if settings.get(key)]
    if settings.get("bias", "none") != "none":
        unsupported.append("bias")
    # These begin from a base whose weights were changed, which the saved adapter does not say.
    begins = settings.get("init_lora_weights", True)
    if isinstance(begins, str) and re.fullmatch(r"pissa.*|olora|corda|loftq|lora_ga", begins):
        unsupported.append(f"init_lora_weights: {begins}")
    if unsupported:
        raise BundleError(
            f"{file} asks for {', '.join(unsupported)}, which Platen does not apply",
            hint="Merge the adapter into its base with PEFT's merge_and_unload and serve that bundle.",
        )
    if not isinstance(settings.get("r"), int) or settings["r"] < 1:
        raise BundleError(f"{file} has no rank r", hint="Save the adapter again with PEFT.")


def _rank_and_scale(folder: Path, settings: Mapping[str, Any], name: str) -> tuple[int, float]:
    """PEFT's rank and scale of one projection: alpha / r, or alpha / sqrt(r) when rank-stabilised."""
    try:
        rank = int(_by_pattern(settings.get("rank_pattern"), name, settings["r"]))
        alpha = float(_by_pattern(settings.get("alpha_pattern"), name, settings.get("lora_alpha", 8)))
        return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    except (TypeError, ValueError, re.error, ZeroDivisionError):
        raise BundleError(
            f"{folder / CONFIG_FILE} has an impossible rank or alpha for {name}",
            hint="Save the adapter again with PEFT.",
        ) from None


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _read_weights(file: Path) -> dict[str, Tensor]:
    """The file's tensors, less the prefix of the model that PEFT wrapped."""
    if not file.is_file():
        raise BundleError(
            f"there is no {file}", hint="Adapters are read from safetensors, never from pickles."
        )
    try:
        with safe_open(file, framework="pt") as opened:
            return {key.removeprefix(_PREFIX): opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint="Copy the adapter again.") from None


def _taken(folder: Path, stored: dict[str, Tensor], key: str, shape: tuple[int, int]) -> Tensor:
    tensor = stored.pop(key, None)
    if tensor is None:
        raise BundleError(f"{folder / WEIGHTS_FILE} has no tensor {key}", hint="Copy the adapter again.")
    if tuple(tensor.shape) != shape:
        raise BundleError(
            f"{folder}: {key} has shape {list(tensor.shape)}; this model and its {CONFIG_FILE} ask for "
            f"{list(shape)}",
            hint="The adapter belongs to another base model.",
        )
    return tensor


def _fingerprint(settings: Mapping[str, Any], file: Path) -> str:
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    total.update(file.read_bytes())
    return total.hexdigest()[:32]
