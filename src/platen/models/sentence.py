"""What makes a model folder an embedding model: how texts enter it and how a text's vector comes out.

Read from the files that sentence-transformers writes beside the weights (`modules.json`,
`sentence_bert_config.json`, `1_Pooling/config.json`). A folder that asks for what is not computed here is
refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from platen.core.errors import BundleError
from platen.models.compiled import COMPILED_FILE
from platen.models.folder import AGAIN, read_json
from platen.tokens.folder import CONFIG_FILE

MODULES_FILE = "modules.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
Pooling = Literal["mean", "last", "first", "max"]
"""Of a text's last hidden states: their mean, that of the last or the first token, each feature's largest."""
Backend = Literal["torch", "openvino", "onnx"]
"""What computes the network: its weights in PyTorch, or a graph beside them in OpenVINO."""
GRAPHS: dict[Backend, str] = {"openvino": "openvino/openvino_model.xml", "onnx": "onnx/model.onnx"}
"""Where sentence-transformers keeps a model's graphs."""

_MODES: dict[str, Pooling] = {"mean": "mean", "lasttoken": "last", "cls": "first", "max": "max"}
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_NO_LIMIT = 10**9
"""From here on `model_max_length` means that the tokenizer knows none."""


@dataclass(frozen=True)
class SentenceConfig:
    """From texts to vectors: `prompt` comes before each text, at most `max_tokens` of which are read."""

    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int | None = None
    lowercase: bool = False
    prompt: str = ""


def is_embedding_folder(folder: Path) -> bool:
    """Whether a model folder holds an embedding model and not one that writes."""
    if (folder / MODULES_FILE).is_file():
        return True
    if (folder / COMPILED_FILE).is_file() or not (folder / "config.json").is_file():
        return False
    architectures = read_json(folder / "config.json").get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return bool(names) and all(isinstance(name, str) and name.endswith("Model") for name in names)


def read_sentence_config(folder: Path, pooling: Pooling | None = None) -> SentenceConfig:
    """What the folder says; one that says nothing is pooled by mean and normalized.

    `pooling` overrides the folder's. Raises BundleError when a module or a pooling is not computed here.
    """
    normalize, pooling_folder = True, None
    if (folder / MODULES_FILE).is_file():
        modules = _modules(folder)
        normalize = "Normalize" in modules
        pooling_folder = modules.get("Pooling")
    if pooling is None:
        pooling = "mean" if pooling_folder is None else _pooling(folder / pooling_folder)
    reading = _optional(folder / "sentence_bert_config.json")
    return SentenceConfig(
        pooling=pooling,
        normalize=normalize,
        max_tokens=_max_tokens(folder, reading),
        lowercase=bool(reading.get("do_lower_case")),
        prompt=_default_prompt(folder),
    )


def sentence_files(config: SentenceConfig, dimensions: int) -> dict[str, Any]:
    """The files, by path, from which `read_sentence_config` reads the pooling; JSON values."""
    names = ["Transformer", "Pooling", *(["Normalize"] if config.normalize else [])]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{name}" if place else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for place, name in enumerate(names)
    ]
    mode = next(mode for mode, pooling in _MODES.items() if pooling == config.pooling)
    poolings = {key: _LEGACY_MODES[key] == mode for key in _LEGACY_MODES}
    return {
        MODULES_FILE: modules,
        "1_Pooling/config.json": {"word_embedding_dimension": dimensions} | poolings,
    }


def _modules(folder: Path) -> dict[str, str]:
    """The kinds of a folder's modules, with each one's own folder, in their order."""
    file = folder / MODULES_FILE
    try:
        listed = json.loads(file.read_text("utf-8"))
        modules = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint=AGAIN) from None
    unknown = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise BundleError(
            f"{file} has a module {min(unknown)}, which Platen does not compute",
            hint="Serve a model of Transformer, Pooling and Normalize.",
        )
    if any(".." in Path(path).parts or Path(path).is_absolute() for path in modules.values()):
        raise BundleError(f"{file} points outside its folder", hint=AGAIN)
    return modules


def _pooling(folder: Path) -> Pooling:
    raw = read_json(folder / "config.json")
    modes = raw.get("pooling_mode") or [mode for key, mode in _LEGACY_MODES.items() if raw.get(key)]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if len(modes) > 1 or modes[0] not in _MODES:
        raise BundleError(
            f"{folder / 'config.json'} asks for the pooling {' + '.join(map(str, modes))}",
            hint=f"Platen computes {', '.join(_MODES)}.",
        )
    if raw.get("include_prompt") is False:
        raise BundleError(
            f"{folder / 'config.json'} leaves the prompt out of the pooling (include_prompt: false)",
            hint="Platen pools over all tokens; serve a model that does too.",
        )
    return _MODES[modes[0]]


def _max_tokens(folder: Path, reading: Mapping[str, Any]) -> int | None:
    limits = (reading.get("max_seq_length"), _optional(folder / CONFIG_FILE).get("model_max_length"))
    return next((int(n) for n in limits if isinstance(n, int | float) and 0 < n < _NO_LIMIT), None)


def read_prompts(folder: Path) -> dict[str, str]:
    """The prompts that a folder names, such as `query` and `document`."""
    prompts = _optional(folder / _PROMPTS_FILE).get("prompts")
    return {str(name): str(prompt) for name, prompt in prompts.items()} if isinstance(prompts, dict) else {}


def _default_prompt(folder: Path) -> str:
    name = _optional(folder / _PROMPTS_FILE).get("default_prompt_name")
    return read_prompts(folder).get(str(name), "")


def _optional(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}
