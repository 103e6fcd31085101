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
from platen.engines.registry import engines
from platen.models.stated_config import StatedConfig
from platen.models.store import cache_folder

_SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
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


def read_measurements(config: StatedConfig, device: str = "auto") -> list[SpeedMeasurement]:
    """What was measured here, on a device, for networks of this shape; empty when nothing was."""
    try:
        rows = json.loads(_file(config, device).read_text("utf-8"))["figures"]
        return [SpeedMeasurement(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # missing, or written by another version: as if never measured


def write_measurements(config: StatedConfig, stats: Sequence[SpeedMeasurement], device: str = "auto") -> None:
    """Keep figures in place of earlier ones."""
    content = {**_circumstances(config, device), "figures": [asdict(one) for one in stats]}
    write_atomic(_file(config, device), (json.dumps(content, indent=2) + "\n").encode())


def _file(config: StatedConfig, device: str) -> Path:
    text = json.dumps(_circumstances(config, device), sort_keys=True)
    return cache_folder() / "engines" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _circumstances(config: StatedConfig, device: str) -> dict[str, object]:
    """All that the figures depend on."""
    packages = sorted({package for spec in engines().values() for package in spec.packages})
    return {
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "device": device,
        "versions": {"platen": __version__, **{name: _version(name) for name in packages}},
        "shape": {key: config.stated(key) for key in _SHAPE},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
