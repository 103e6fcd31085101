"""A tokenizer written into a GGUF file, as `platen.tokens.gguf_vocabulary` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from platen.core.errors import MissingExtraError
from platen.tokens.gguf_pretokenizers import name_of
from platen.tokens.pieces import BLANK, ConversionError, Kind, Piece, PieceModel, from_tokenizer, is_pieces
from platen.tokens.tokenizer import Tokenizer


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
    if is_pieces(raw):
        _add_pieces(writer, from_tokenizer(tokenizer), size)
    else:
        _add_byte_level(writer, raw, size)
    framed = tokenizer.encode_with_special_tokens([""])[0]
    writer.add_add_bos_token(tokenizer.bos_id is not None and tokenizer.bos_id in framed[:1])
    writer.add_add_eos_token(tokenizer.eos_id is not None and tokenizer.eos_id in framed[1:])
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
    if not is_pieces(raw) and name_of(raw) is None:
        raise ConversionError(
            "llama.cpp has no name for the way in which this tokenizer cuts texts",
            hint="Convert to tokenizer.json instead.",
        )
    writer = _gguf().GGUFWriter(file, "llama")
    add_vocabulary(writer, tokenizer, tokenizer.vocab_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _add_byte_level(writer: Any, raw: dict[str, Any], size: int) -> None:
    types = _gguf().TokenType
    by_id = {id: token for token, id in raw["model"]["vocab"].items()}
    kinds = dict.fromkeys(by_id, types.NORMAL)
    for added in raw.get("added_tokens", ()):
        by_id[added["id"]] = added["content"]
        kinds[added["id"]] = types.CONTROL if added["special"] else types.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name_of(raw) or "default")
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
    writer.add_token_list([_own_text(piece) for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.kind) for piece in pieces])
    writer.add_unk_token_id(model.unknown_id)
    writer.add_add_space_prefix(model.dummy_prefix)


def _own_text(piece: Piece) -> str:
    """llama.cpp looks for such tokens before it writes blanks as pieces have them."""
    return piece.text.replace(BLANK, " ") if piece.kind is Kind.USER_DEFINED else piece.text


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("edge", "a GGUF file") from None
    return gguf
