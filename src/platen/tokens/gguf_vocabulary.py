"""The vocabulary in a GGUF file, llama.cpp's format: read into a tokenizer, and written from one.

llama.cpp has a `gpt2` kind for byte-level BPE, which names the pattern that cuts text, and a `llama` kind for
SentencePiece's BPE.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from platen.core.errors import MissingExtraError
from platen.tokens.pieces import ConversionError, Kind, Piece, PieceModel, from_tokenizer, to_tokenizer
from platen.tokens.ranks import GPT2_PATTERN, LLAMA3_PATTERN, byte_level_tokenizer, pattern_of
from platen.tokens.tokenizer import Tokenizer

_PRE_TOKENIZERS = {
    # How llama.cpp calls a way to cut text into words: a part of its pattern tells it.
    r"\p{N}{1,3}": "llama-bpe",
    '"Digits"': "smollm",
    '"use_regex":true': "gpt-2",
}
_EXACT = {LLAMA3_PATTERN: "llama-bpe", GPT2_PATTERN: "gpt-2"}
"""Patterns that llama.cpp has under these names; of others it is not known."""


def add_vocabulary(writer: Any, tokenizer: Tokenizer, size: int) -> None:
    """Add the tokenizer to a `gguf.GGUFWriter`, padded to `size` entries.

    Raises ConversionError for a kind that llama.cpp doesn't have.
    """
    raw = json.loads(tokenizer.raw)
    if raw["model"]["type"] != "BPE" or not raw["model"].get("merges"):
        raise ConversionError(
            "GGUF is written for byte-level and SentencePiece BPE; this tokenizer has no merges",
            hint="compile to openvino instead",
        )
    if raw.get("pre_tokenizer") is None:
        _add_pieces(writer, from_tokenizer(tokenizer), size)
    else:
        _add_byte_level(writer, raw, size)
    for add, id in (
        (writer.add_bos_token_id, tokenizer.bos_id),
        (writer.add_eos_token_id, tokenizer.eos_id),
        (writer.add_pad_token_id, tokenizer.pad_id),
    ):
        if id is not None:
            add(id)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def write_gguf_vocabulary(tokenizer: Tokenizer, file: Path) -> None:
    """A GGUF file with the vocabulary alone.

    Raises ConversionError for texts cut in a way that llama.cpp doesn't have.
    """
    raw = json.loads(tokenizer.raw)
    if raw.get("pre_tokenizer") is not None and pattern_of(raw) not in _EXACT:
        raise ConversionError(
            "llama.cpp has no name for the way in which this tokenizer cuts texts",
            hint="Convert to tokenizer.json instead.",
        )
    writer = _gguf().GGUFWriter(file, "llama")
    add_vocabulary(writer, tokenizer, tokenizer.vocab_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def read_gguf_vocabulary(file: Path) -> Tokenizer:
    """The tokenizer in a GGUF file. Raises ConversionError when it is damaged or of another kind."""
    try:
        fields = _gguf().GGUFReader(file).fields
    except (ValueError, OSError, IndexError) as error:
        raise ConversionError(f"not a GGUF file: {error}", hint="Take the file again.") from None

    def get(name: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.{name}")
        return default if field is None else field.contents()

    kind = get("ggml.model")
    if kind == "llama":
        return to_tokenizer(_pieces(get))
    if kind == "gpt2":
        return _byte_level(get)
    raise ConversionError(
        f"a vocabulary of the kind {kind!r} can't be told exactly as tokenizer.json",
        hint="Only llama.cpp's kinds gpt2 and llama can.",
    )


def _add_byte_level(writer: Any, raw: dict[str, Any], size: int) -> None:
    types = _gguf().TokenType
    by_id = {id: token for token, id in raw["model"]["vocab"].items()}
    kinds = dict.fromkeys(by_id, types.NORMAL)
    for added in raw.get("added_tokens", ()):
        by_id[added["id"]] = added["content"]
        kinds[added["id"]] = types.CONTROL if added["special"] else types.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(raw))
    writer.add_token_list([by_id.get(id, f"[PAD{id}]") for id in range(size)])
    writer.add_token_types([kinds.get(id, types.UNUSED) for id in range(size)])
    merges = raw["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])


def _add_pieces(writer: Any, model: PieceModel, size: int) -> None:
    if model.charsmap or model.collapse_blanks:
        raise ConversionError(
            "llama.cpp doesn't change characters or blanks as this tokenizer does",
            hint="Convert to tokenizer.model instead.",
        )
    unused = [Piece(f"[PAD{id}]", 0.0, Kind.UNUSED) for id in range(len(model.pieces), size)]
    pieces = [*model.pieces, *unused]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.kind) for piece in pieces])
    writer.add_unk_token_id(model.unknown_id)
    writer.add_add_space_prefix(model.dummy_prefix)


def _pieces(get: Any) -> PieceModel:
    texts, scores, kinds = get("ggml.tokens"), get("ggml.scores"), get("ggml.token_type")
    pieces = [Piece(*entry[:2], Kind(entry[2])) for entry in zip(texts, scores, kinds, strict=True)]
    while pieces and pieces[-1].kind is Kind.UNUSED:  # rows of the embedding that no token has
        pieces.pop()
    return PieceModel(
        algorithm="bpe",
        pieces=tuple(pieces),
        dummy_prefix=bool(get("ggml.add_space_prefix", True)),
        bos_id=get("ggml.bos_token_id"),
        eos_id=get("ggml.eos_token_id"),
        pad_id=get("ggml.padding_token_id"),
        chat_template=get("chat_template"),
    )


def _byte_level(get: Any) -> Tokenizer:
    pre = get("ggml.pre")
    pattern = next((pattern for pattern, name in _EXACT.items() if name == pre), None)
    if pattern is None:
        raise ConversionError(
            f"the way {pre!r} in which it cuts texts is not known here",
            hint="Take tokenizer.json from where the model comes from.",
        )
    texts, kinds = get("ggml.tokens"), get("ggml.token_type")
    entries = list(enumerate(zip(texts, kinds, strict=True)))
    added = [
        (id, text, kind == Kind.CONTROL)
        for id, (text, kind) in entries
        if kind in (Kind.CONTROL, Kind.USER_DEFINED)
    ]
    vocabulary = {text: id for id, (text, kind) in entries if kind != Kind.UNUSED}
    merges = [merge.split(" ", 1) for merge in get("ggml.merges")]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for key, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        if (id := get(f"ggml.{name}_token_id")) is not None:
            config[key] = texts[id]
    if (template := get("chat_template")) is not None:
        config["chat_template"] = template
    return byte_level_tokenizer(pattern, vocabulary, merges, added, config)


def _pre_tokenizer(raw: dict[str, Any]) -> str:
    text = json.dumps(raw.get("pre_tokenizer"), separators=(",", ":")).replace("\\\\", "\\")
    return next((name for part, name in _PRE_TOKENIZERS.items() if part in text), "default")


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("data", "a GGUF file") from None
    return gguf
