"""The ways to cut a text into words that llama.cpp knows, by the names that a GGUF file gives them.

A file has only the name (`tokenizer.ggml.pre`); the patterns are those of the models that it was made for.
Each pattern cuts what those before it left, as the steps of a `tokenizer.json` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from platen.tokens.pieces import ConversionError
from platen.tokens.ranks import GPT2_PATTERN, LLAMA3_PATTERN

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_LINES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHES}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHES}"
)
_PUNCTUATION = "!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~"
_DEEPSEEK3 = (
    rf"[{_PUNCTUATION}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED_CODER = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DIGIT, _THOUSANDS = r"\p{N}", r"\p{N}{1,3}"

_LLAMA3_LIKE = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "jina-v5-nano",
)

_PATTERNS: dict[tuple[str, ...], tuple[str, ...]] = {
    (LLAMA3_PATTERN,): (*(*_LLAMA3_LIKE, "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5"),),
    (GPT2_PATTERN,): (
        *("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0"),
        *("mellum", "exaone4", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"),
        *("jina-v1-en", "jina-v2-code", "roberta-bpe"),
    ),
    (_DIGIT, GPT2_PATTERN): (
        *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    ),
    (_QWEN2,): (
        *("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo"),
        *("f2llmv2",),
    ),
    (_QWEN35,): ("qwen35",),
    (_TEKKEN,): ("tekken",),
    (_GPT4O,): ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    (_THOUSANDS, "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3): ("deepseek-v3", "hunyuan-dense", "joyai-llm"),
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT): ("deepseek-coder",),
    (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]"): ("falcon",),
    (_SEED_CODER,): ("seed-coder",),
    (_BAILING,): ("bailingmoe", "bailingmoe2", "llada-moe"),
    (_BLOOM,): ("bloom", "poro-chat", "gpt3-finnish"),
    (_BLOOM, _DIGIT): ("viking",),
    (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"): ("default",),
}
_BY_NAME = {name: patterns for patterns, names in _PATTERNS.items() for name in names}
_WHOLE_WORDS = frozenset((*_LLAMA3_LIKE, "glm4", "glm5", "tekken"))
"""A word that is a token is that token, whatever the merges would make of it."""
_BEGIN = frozenset((*_LLAMA3_LIKE, "tekken"))
"""A text begins with the token for that, unless the file says otherwise."""


def patterns_named(name: str) -> tuple[str, ...]:
    """The patterns of `tokenizer.ggml.pre`, in order. Raises ConversionError for one not known here."""
    if name not in _BY_NAME:
        raise ConversionError(
            f"the way {name!r} in which it cuts texts into words is not known here",
            hint="Take tokenizer.json from where the model comes from and serve that model's folder.",
        )
    return _BY_NAME[name]


def takes_whole_words(name: str) -> bool:
    return name in _WHOLE_WORDS


def begins_texts(name: str) -> bool:
    return name in _BEGIN


def name_of(raw: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how a byte-level `tokenizer.json` cuts texts; None when it has none."""
    names = _PATTERNS.get(tuple(_steps(raw)))
    if names is None:
        return None
    whole = bool(raw["model"].get("ignore_merges"))
    return next((name for name in names if takes_whole_words(name) is whole), names[0])


def _steps(raw: Mapping[str, Any]) -> list[str]:
    """The patterns by which the steps before the model cut, `?` for a step of another kind."""
    part = raw.get("pre_tokenizer") or {}
    found = []
    for step in part.get("pretokenizers", [part]):
        kind, pattern = step.get("type"), step.get("pattern", {}).get("Regex")
        if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"] and pattern:
            found.append(pattern)
        elif kind == "Digits" and step.get("individual_digits"):
            found.append(_DIGIT)
        elif kind == "ByteLevel" and not step["add_prefix_space"]:
            found += [GPT2_PATTERN] if step.get("use_regex", True) else []
        else:
            found.append("?")
    return found
