"""The families that the decoder computes, and which of them a `config.json` is of.

A package adds one by an entry point in the group `platen.families` that leads to a Family, or a program by
`register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.core.errors import BundleError
from platen.core.plugins import Catalogue
from platen.models.arch.config import DecoderConfig
from platen.models.arch.families.gemma import GEMMA2, GEMMA3
from platen.models.arch.families.gpt import GPT2, GPT_NEOX
from platen.models.arch.families.llama import GRANITE, LLAMA, MISTRAL, MIXTRAL, OLMO2, SMOLLM3
from platen.models.arch.families.phi import PHI3
from platen.models.arch.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from platen.models.arch.families.table import TAKE_AGAIN, Family, read_common, write_common

_ALL = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA2,
    GEMMA3,
    PHI3,
    OLMO2,
    GRANITE,
    SMOLLM3,
    GPT2,
    GPT_NEOX,
    MIXTRAL,
    QWEN3_MOE,
)
_CATALOGUE = Catalogue("platen.families", _ALL)


def register(family: Family) -> None:
    """Add a family. Raises ConfigError when there is another of that name."""
    _CATALOGUE.register(family)


def families() -> Mapping[str, Family]:
    """By `DecoderConfig.family`, transformers' model_type."""
    return _CATALOGUE.all()


def architectures() -> Mapping[str, Family]:
    """By the first of a `config.json`'s architectures."""
    # Images are left out: the language model in it is a Gemma 3.
    return {family.architecture: family for family in families().values()} | {
        "Gemma3ForConditionalGeneration": GEMMA3
    }


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """A network from a parsed `config.json` of transformers 4 or 5.

    Raises BundleError when a key is missing or the model is one that the decoder can't compute.
    """
    architecture = architecture_of(raw)
    family = architectures().get(architecture)
    if family is None:
        raise BundleError(
            f"architecture {architecture} is not supported",
            hint=f"Platen opens {', '.join(architectures())}.",
        )
    inner = raw.get("text_config")
    keys = {**family.defaults, **(raw if not isinstance(inner, Mapping) else {**raw, **inner})}
    for key, allowed in family.computed.items():
        if (found := keys.get(key)) is not None and found not in allowed:
            raise BundleError(
                f"{architecture} with {key}: {found!r} is not supported",
                hint=f"Platen computes {key}: {allowed[0]!r} only.",
            )
    if quantized := keys.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise BundleError(
            f"{architecture} with quantized weights (quantization_config: {method}) is not supported",
            hint="Open the model as it was before that, or its GGUF; Platen quantizes models itself.",
        )
    common = read_common(family, keys)
    try:
        return DecoderConfig(**{**common, **family.read(keys)})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(
            f"config.json doesn't describe a {architecture}: {type(error).__name__}: {error}", hint=TAKE_AGAIN
        ) from None


def architecture_of(raw: Mapping[str, Any]) -> str:
    """What a `config.json` says that it is, for messages too."""
    named = raw.get("architectures")
    if isinstance(named, list) and named:
        return str(named[0])
    family = families().get(str(raw.get("model_type")))
    return family.architecture if family else f"model_type {raw.get('model_type', 'missing')!r}"


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` that transformers (4 and 5), vLLM and llama.cpp read back as this network."""
    family = families()[config.family]
    return {**write_common(family, config), **family.write(config)}
