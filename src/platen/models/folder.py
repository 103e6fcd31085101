"""A model's folder before its weights are opened: where it is, its JSON files, its fingerprint.

Imports no PyTorch, which a server with a compiled form of a model never needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platen.core.artifacts import sha256_file
from platen.core.errors import BundleError
from platen.tokens.folder import (
    CONFIG_FILE,
    SENTENCEPIECE_FILE,
    TEMPLATE_FILE,
    TEMPLATE_FOLDER,
    TOKENIZER_FILE,
)

AGAIN = "Make the model again, or copy or download it again."
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", SENTENCEPIECE_FILE, TEMPLATE_FILE, f"{TEMPLATE_FOLDER}/*.jinja"]


def find_bundle(path_or_name: str | Path, *, graph: str | None = None) -> Path:
    """The local folder of a bundle: the path itself, or the Hub's snapshot, downloaded if need be.

    `graph` is a file that is to be there too, with those that have its name and another suffix.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_name)
    if isinstance(path_or_name, Path) or not _HUB_NAME.fullmatch(name):
        raise BundleError(
            f"there is no model folder {path}",
            hint="Give a folder, or a name on the Hugging Face Hub such as HuggingFaceTB/SmolLM2-135M.",
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise BundleError(
            f"there is no folder {name}, and opening it by its Hub name needs huggingface_hub",
            hint="pip install huggingface_hub, or give a local folder.",
        ) from None
    try:
        graphs = [] if graph is None else [f"{graph.rpartition('.')[0]}.*"]
        return Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, *graphs]))
    except LocalEntryNotFoundError:
        raise BundleError(
            f"{name} is neither a folder here nor in the Hub cache, and the Hub can't be reached",
            hint="Connect (and unset HF_HUB_OFFLINE) to download it once, or give a local folder.",
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise BundleError(
            f"the Hugging Face Hub didn't give {name}: {str(error).strip().splitlines()[0]}",
            hint="Check the name; for a gated model accept its licence and set HF_TOKEN.",
        ) from None


def bundle_fingerprint(path: Path, digest: Callable[[Path], str] = sha256_file) -> str:
    """Hash of a bundle's config, tokenizer and weights: 16 hex digits that change when the model does.

    `digest` gives a file's SHA-256, from memory perhaps.
    """
    total = hashlib.sha256()
    names = {"config.json", TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE}
    files = [file for file in path.iterdir() if file.name in names or file.suffix == ".safetensors"]
    files += (path / TEMPLATE_FOLDER).glob("*.jinja")
    for file in sorted(files):
        total.update(f"{file.relative_to(path).as_posix()}:{digest(file)}\n".encode())
    return total.hexdigest()[:16]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a bundle's file; BundleError when it is missing or damaged."""
    try:
        raw = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{file.parent} has no {file.name}", hint=_about(file.parent)) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint=AGAIN) from None
    if not isinstance(raw, dict):
        raise BundleError(f"{file} is damaged: not a JSON object", hint=AGAIN)
    return raw


def _about(folder: Path) -> str:
    """What to do about a folder that was taken for a model's."""
    if (folder / TOKENIZER_FILE).is_file() and not (folder / "config.json").is_file():
        return "It holds a tokenizer and no model: give the folder of a model."
    return "Give the folder of a model: with config.json, its tokenizer and its weights."
