"""SentencePiece's view of a tokenizer: pieces with scores, and the same as a `tokenizer.json`.

SentencePiece protobufs and llama.cpp's `llama` vocabularies both hold this. BPE merges follow from the
scores: of neighbours that together are a piece, those with the best score are joined first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from platen.core.errors import BundleError
from platen.tokens.tokenizer import Tokenizer, added_token

BLANK = "▁"
"""How a blank is written in a piece."""


class ConversionError(BundleError):
    """A tokenizer can't be told exactly in the form that was asked for."""


class Kind(IntEnum):
    """What a piece is; the numbers are SentencePiece's and GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class PieceModel:
    """Pieces in the order of their ids, and what is done to a text before.

    `dummy_prefix`: a blank is put before a text; `collapse_blanks`: those at its ends are dropped and several
    made one; `charsmap`: SentencePiece's compiled character map, empty for none.
    """

    algorithm: Literal["bpe", "unigram"]
    pieces: tuple[Piece, ...]
    dummy_prefix: bool
    collapse_blanks: bool = False
    charsmap: bytes = b""
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    chat_template: Any = None
    """Jinja, or several by name as `tokenizer_config.json` lists them."""
    begins: bool = False
    """`bos_id` goes before a text that is framed."""
    ends: bool = False
    """`eos_id` goes after it."""
    stripping: frozenset[str] = frozenset()
    """Marks that take the blanks after them along."""

    @property
    def unknown_id(self) -> int:
        """The id of the one piece that stands for what is not in the vocabulary."""
        found = [id for id, piece in enumerate(self.pieces) if piece.kind is Kind.UNKNOWN]
        if len(found) != 1:
            raise ConversionError(
                f"a SentencePiece model has one unknown piece, this has {len(found)}",
                hint="Keep this tokenizer as tokenizer.json.",
            )
        return found[0]


def to_tokenizer(model: PieceModel, *, skip_unused: bool = False) -> Tokenizer:
    """The same as a `tokenizer.json`.

    Raises ConversionError for unused pieces, which it has no word for, unless they are to be left out.
    """
    if not skip_unused and any(piece.kind is Kind.UNUSED for piece in model.pieces):
        raise ConversionError(
            "the model has pieces that are marked unused, and tokenizer.json can't say so",
            hint="Export the model without restricting its vocabulary.",
        )
    unknown = model.unknown_id
    added = [
        added_token(id, piece.text, piece.kind is not Kind.USER_DEFINED)
        | {"rstrip": piece.text in model.stripping}
        for id, piece in enumerate(model.pieces)
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.dummy_prefix else []
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(model))},
        "pre_tokenizer": None,
        "post_processor": frame(
            (model.pieces[model.bos_id].text, model.bos_id)
            if model.begins and model.bos_id is not None
            else None,
            (model.pieces[model.eos_id].text, model.eos_id)
            if model.ends and model.eos_id is not None
            else None,
        ),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": _bpe(model, unknown) if model.algorithm == "bpe" else _unigram(model, unknown),
    }
    names = {"bos_token": model.bos_id, "eos_token": model.eos_id, "pad_token": model.pad_id}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {key: model.pieces[id].text for key, id in names.items() if id is not None}
    config |= {"unk_token": model.pieces[unknown].text, "clean_up_tokenization_spaces": False}
    if model.chat_template is not None:
        config["chat_template"] = model.chat_template
    return Tokenizer(json.dumps(raw, ensure_ascii=False).encode(), config)


def frame(begin: tuple[str, int] | None, end: tuple[str, int] | None) -> dict[str, Any] | None:
    """The post-processor that puts these tokens (text and id) around a text; None for none."""
    if begin is None and end is None:
        return None

    def mark(token: tuple[str, int] | None, sequence: int) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": token[0], "type_id": sequence}}]

    def part(name: str, sequence: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": name, "type_id": sequence}}
        return [*mark(begin, sequence), text, *mark(end, sequence)]

    return {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": [*part("A", 0), *part("B", 1)],
        "special_tokens": {
            token[0]: {"id": token[0], "ids": [token[1]], "tokens": [token[0]]}
            for token in (begin, end)
            if token is not None
        },
    }


def from_tokenizer(tokenizer: Tokenizer) -> PieceModel:
    """The pieces of a tokenizer of SentencePiece's kind. Raises ConversionError for any other."""
    raw = json.loads(tokenizer.raw)
    if not is_pieces(raw):
        raise ConversionError(
            f"this tokenizer cuts texts by rules ({_types(raw['pre_tokenizer'])}) that SentencePiece "
            "doesn't have",
            hint="Byte-level BPE goes into tiktoken ranks or GGUF; others stay as tokenizer.json.",
        )
    prefix, collapse, charsmap = _read_normalizers(raw)
    model = raw["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise ConversionError(
            f"SentencePiece has no {model['type']} models", hint="Keep this tokenizer as tokenizer.json."
        )
    algorithm: Literal["bpe", "unigram"] = "bpe" if model["type"] == "BPE" else "unigram"
    scored = (
        _scores_of_merges(model) if algorithm == "bpe" else [(text, score) for text, score in model["vocab"]]
    )
    special = {entry["id"]: bool(entry["special"]) for entry in raw.get("added_tokens", ())}
    beyond = [id for id in special if id >= len(scored)]
    texts = {entry["id"]: entry["content"] for entry in raw.get("added_tokens", ())}
    scored += [(texts[id], 0.0) for id in sorted(beyond)]
    unknown = (
        model["unk_id"]
        if algorithm == "unigram"
        else next((id for id, (text, _) in enumerate(scored) if text == model.get("unk_token")), None)
    )
    pieces = tuple(
        Piece(text, score, _kind(id, text, unknown, special, bool(model.get("byte_fallback"))))
        for id, (text, score) in enumerate(scored)
    )
    return PieceModel(
        algorithm=algorithm,
        pieces=tuple(
            p if p.kind in (Kind.NORMAL, Kind.USER_DEFINED) else Piece(p.text, 0.0, p.kind) for p in pieces
        ),
        dummy_prefix=prefix,
        collapse_blanks=collapse,
        charsmap=charsmap,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        chat_template=tokenizer.chat_template,
    )


def _kind(id: int, text: str, unknown: int | None, special: dict[int, bool], bytes_too: bool) -> Kind:
    if id == unknown:
        return Kind.UNKNOWN
    if id in special:
        return Kind.CONTROL if special[id] else Kind.USER_DEFINED
    is_byte = bytes_too and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return Kind.BYTE if is_byte else Kind.NORMAL


def _bpe(model: PieceModel, unknown: int) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": any(piece.kind is Kind.BYTE for piece in model.pieces),
        "ignore_merges": False,
        "vocab": {piece.text: id for id, piece in enumerate(model.pieces) if piece.kind is not Kind.UNUSED},
        "merges": merges_of(model.pieces),
    }


def merges_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """All ways in which two pieces make a third, best score first."""
    joinable = {piece.text: piece.score for piece in pieces if piece.kind is Kind.NORMAL}
    ranked = []
    for order, (text, score) in enumerate(joinable.items()):
        for cut in range(1, len(text)):
            if text[:cut] in joinable and text[cut:] in joinable:
                # Two ways to one piece have one score; the leftmost pair is joined, whose left is longer.
                ranked.append((-score, order, -cut, text))
    return [(text[:-cut], text[-cut:]) for _, _, cut, text in sorted(ranked)]


def _unigram(model: PieceModel, unknown: int) -> dict[str, Any]:
    """Pieces that texts never make (marks, bytes) get a score that no way through a text would take."""
    reachable = [piece.score for piece in model.pieces if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED)]
    longest = max(len(piece.text) for piece in model.pieces)
    never = (min(reachable, default=0.0) - 20.0) * (longest + 1)
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [
            (piece.text, piece.score if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED) else never)
            for piece in model.pieces
        ],
        "byte_fallback": any(piece.kind is Kind.BYTE for piece in model.pieces),
    }


_COLLAPSE = (
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    {"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""},
)
_PREFIX = {"type": "Prepend", "prepend": BLANK}
_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
_AFTER_ESCAPE = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
"""Gemma's: there are no blanks any more when it comes."""


def _normalizers(model: PieceModel) -> Iterator[dict[str, Any]]:
    if model.charsmap:
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()}
    if model.collapse_blanks:
        yield from _COLLAPSE
    if model.dummy_prefix:
        yield _PREFIX
    yield _ESCAPE


def is_pieces(raw: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` cuts texts as SentencePiece does: not at all before its model."""
    return _is_metaspace(raw) or raw.get("pre_tokenizer") in (None, _AFTER_ESCAPE)


def _is_metaspace(raw: Mapping[str, Any]) -> bool:
    part = raw.get("pre_tokenizer") or {}
    return part.get("type") == "Metaspace" and part["replacement"] == BLANK and not part.get("split", True)


def _read_normalizers(raw: Mapping[str, Any]) -> tuple[bool, bool, bytes]:
    """Dummy prefix, collapsed blanks and character map: from what `_normalizers` writes, or a Metaspace."""
    normalizer = raw.get("normalizer")
    if _is_metaspace(raw) and normalizer is None:
        return raw["pre_tokenizer"]["prepend_scheme"] != "never", False, b""
    steps = [] if normalizer is None else list(normalizer.get("normalizers", [normalizer]))
    charsmap = b""
    if steps and steps[0]["type"] == "Precompiled":
        charsmap = base64.b64decode(steps.pop(0)["precompiled_charsmap"])
    collapse = steps[:2] == list(_COLLAPSE)
    steps = steps[2:] if collapse else steps
    prefix = steps[:1] == [_PREFIX]
    if steps[prefix:] != [_ESCAPE]:
        raise ConversionError(
            f"this tokenizer changes texts in ways ({_types(normalizer)}) that SentencePiece doesn't have",
            hint="Keep this tokenizer as tokenizer.json.",
        )
    return prefix, collapse, charsmap


def _scores_of_merges(model: dict[str, Any]) -> list[tuple[str, float]]:
    """Pieces by id, those that are made earlier with better scores."""
    made: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        made.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    by_id = sorted(model["vocab"].items(), key=lambda entry: entry[1])
    if [id for _, id in by_id] != list(range(len(by_id))):
        raise ConversionError("its ids have gaps", hint="Keep this tokenizer as tokenizer.json.")
    unmade = float(len(made))
    return [(text, -float(made.get(text, unmade))) for text, _ in by_id]


def _types(part: Any) -> str:
    if part is None:
        return "none"
    inner = part.get("pretokenizers", part.get("normalizers", [part]))
    return ", ".join(str(step["type"]) for step in inner)
