"""What `platen bench engines` has measured on this machine, kept in the user's cache folder.

Figures hold for one machine, one set of versions and one shape of network; with any other they are not found.
Compiled forms made for the measurement lie beside them, named by the bundle they came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from platen import __version__
from platen.core.cpu import processor
from platen.core.files import write_atomic
from platen.models.arch.config import DecoderConfig
from platen.models.store import cache_folder

PACKAGES = ("torch", "openvino", "llama-cpp-python")
AT_ONCE = 8
"""Requests at once of the crowded measurement."""


@dataclass(frozen=True)
class SpeedMeasurement:
    """One engine's speeds in tokens a second, alone and with `AT_ONCE` requests, and its process's memory."""

    engine: str
    weights: str
    prefill_alone: float
    decode_alone: float
    prefill_crowded: float
    decode_crowded: float
    memory_bytes: int


def compiled_folder(bundle_fingerprint: str, to: str, weights: str) -> Path:
    """Where the cache keeps a compiled form of a bundle."""
    return cache_folder() / "compiled" / f"{bundle_fingerprint}-{to}-{weights}"


def cached_forms(bundle_fingerprint: str) -> list[Path]:
    """The compiled forms of a bundle that the cache has."""
    return sorted((cache_folder() / "compiled").glob(f"{bundle_fingerprint}-*-*"))


def read_measurements(config: DecoderConfig) -> list[SpeedMeasurement]:
    """What was measured here for networks of this shape; empty when nothing was."""
    try:
        rows = json.loads(_file(config).read_text("utf-8"))["figures"]
        return [SpeedMeasurement(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # missing, or written by another version: as if never measured


def write_measurements(config: DecoderConfig, stats: Sequence[SpeedMeasurement]) -> None:
    """Keep figures in place of earlier ones."""
    content = {**_circumstances(config), "figures": [asdict(one) for one in stats]}
    write_atomic(_file(config), (json.dumps(content, indent=2) + "\n").encode())


def _file(config: DecoderConfig) -> Path:
    text = json.dumps(_circumstances(config), sort_keys=True)
    return cache_folder() / "engines" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _circumstances(config: DecoderConfig) -> dict[str, object]:
    """All that the figures depend on."""
    return {
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"platen": __version__, **{name: _version(name) for name in PACKAGES}},
        "shape": {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
