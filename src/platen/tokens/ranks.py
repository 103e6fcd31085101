"""Byte-level BPE as tiktoken has it: a pattern that cuts text, and every token's bytes with its rank.

tiktoken joins the neighbours whose joined bytes have the lowest rank; Hugging Face joins the pair that stands
first in a list. They agree when ids follow the order of the merges and every token is made by one merge,
which `ranks_of` checks; then its encoder gives the very same ids, several times as fast.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from platen.core.errors import MissingExtraError
from platen.tokens.pieces import ConversionError
from platen.tokens.tokenizer import BYTE_OF_LETTER, Tokenizer, added_token

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}


@dataclass(frozen=True)
class Ranks:
    """`pattern` cuts a text into words, `ranks` are their tokens, `specials` tokens of their own."""

    pattern: str
    ranks: Mapping[bytes, int]
    specials: Mapping[str, int]

    def encoding(self) -> Any:
        """tiktoken's encoder. Raises MissingExtraError."""
        try:
            from tiktoken import Encoding
        except ImportError:
            raise MissingExtraError("data", "tiktoken's encoder") from None
        return Encoding(
            "platen",
            pat_str=self.pattern,
            mergeable_ranks=dict(self.ranks),
            special_tokens=dict(self.specials),
        )


def read_ranks(data: bytes) -> dict[bytes, int]:
    """The content of a `.tiktoken` file: a line a token, its bytes in base64 and its rank."""
    ranks = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ConversionError(
                f"line {number} is not a token in base64 and its rank", hint="Take the file again."
            ) from None
    return ranks


def write_ranks(ranks: Ranks) -> bytes:
    """The content of a `.tiktoken` file. Pattern and special tokens have no place in it."""
    ordered = sorted(ranks.ranks.items(), key=lambda entry: entry[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)


def ranks_of(tokenizer: Tokenizer) -> Ranks:
    """The ranks of a byte-level BPE. Raises ConversionError with what keeps tiktoken from the same ids."""
    raw = json.loads(tokenizer.raw)
    pattern = pattern_of(raw)
    model = raw["model"]
    if model["type"] != "BPE" or pattern is None or raw.get("normalizer") is not None:
        raise ConversionError(
            f"tiktoken knows byte-level BPE alone, and this is {model['type']} that cuts or changes texts "
            "in another way",
            hint="Convert to tokenizer.json instead.",
        )
    specials = {entry["content"]: entry["id"] for entry in raw.get("added_tokens", ())}
    try:
        ranks = {
            bytes(BYTE_OF_LETTER[letter] for letter in text): id
            for text, id in model["vocab"].items()
            if text not in specials
        }
    except KeyError as error:
        raise ConversionError(
            f"a token has the character {error}, which is no byte", hint="Convert to tokenizer.json instead."
        ) from None
    _check_merges(raw, ranks, set(specials))
    return Ranks(pattern, ranks, specials)


def tokenizer_of(ranks: Ranks, config: Mapping[str, Any]) -> Tokenizer:
    """The same as a `tokenizer.json`. Raises ConversionError when a token is out of reach."""
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks.ranks]
    if missing:
        raise ConversionError(
            f"the ranks lack the byte 0x{missing[0]:02x}, so not every text has tokens",
            hint="Take the whole file.",
        )
    merges = []
    for token, rank in sorted(ranks.ranks.items(), key=lambda entry: entry[1]):
        if len(token) > 1:
            merges.append([_letters(part) for part in _last_merge(token, rank, ranks.ranks)])
    vocabulary = {_letters(token): rank for token, rank in ranks.ranks.items()} | dict(ranks.specials)
    added = [(id, text, True) for text, id in sorted(ranks.specials.items(), key=lambda entry: entry[1])]
    tokens = [added_token(*entry) for entry in added]
    return byte_level_tokenizer([ranks.pattern], vocabulary, merges, tokens, config)


def byte_level_tokenizer(
    patterns: Sequence[str],
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    added: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    ignore_merges: bool = False,
    frame: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """A byte-level BPE that cuts by `patterns`, one after the other; `added` are entries of `added_tokens`.

    With `ignore_merges` a word that is a token becomes that token. `frame` is the post-processor.
    """
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": frame,
        "decoder": byte_level,
        "model": model,
    }
    return Tokenizer(json.dumps(raw, ensure_ascii=False).encode(), config)


def pattern_of(raw: Mapping[str, Any]) -> str | None:
    """The one pattern by which a byte-level tokenizer cuts texts; None for any other way."""
    part = raw.get("pre_tokenizer") or {}
    steps = part.get("pretokenizers", [part])
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return GPT2_PATTERN if steps[0].get("use_regex", True) else None
    split, last = steps[0], steps[-1]
    plain = split.get("type") == "Split" and split["behavior"] == "Isolated" and not split["invert"]
    if len(steps) != 2 or not plain or last.get("use_regex", True) or "Regex" not in split["pattern"]:
        return None
    return str(split["pattern"]["Regex"])


def _check_merges(raw: dict[str, Any], ranks: Mapping[bytes, int], specials: set[str]) -> None:
    model = raw["model"]
    made = ["".join(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    ids = [model["vocab"][text] for text in made]
    words = [text for text in model["vocab"] if len(text) > 1 and text not in specials]
    if ids != sorted(set(ids)) or set(words) != set(made) or len(ranks) - len(words) != 256:
        raise ConversionError(
            "its ids don't follow the order of its merges, by which tiktoken joins",
            hint="Convert to tokenizer.json instead.",
        )
    # Cut by nothing, a token's own text has to become that token.
    alone = Backend.from_str(json.dumps(raw | {"pre_tokenizer": None, "added_tokens": []}))
    for text, found in zip(words, alone.encode_batch_fast(words, add_special_tokens=False), strict=True):
        if len(found.ids) != 1:
            raise ConversionError(
                f"no text by itself becomes its token {text!r}, which tiktoken would find",
                hint="Convert to tokenizer.json instead.",
            )


def _last_merge(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that `token` is joined from when only tokens of lower rank are."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(joined)
        if best >= rank:
            raise ConversionError(
                f"the token {token!r} is not made of two others, so tokenizer.json has no merge for it",
                hint="Go on using it with tiktoken.",
            )
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _letters(token: bytes) -> str:
    return "".join(_LETTER_OF_BYTE[byte] for byte in token)
