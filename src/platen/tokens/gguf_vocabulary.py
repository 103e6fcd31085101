"""The vocabulary in a GGUF file, llama.cpp's format, as a tokenizer that gives the same ids.

llama.cpp has a `gpt2` kind for byte-level BPE, which names the way that texts are cut, and a `llama` kind for
SentencePiece's BPE. Normalization forms of Unicode have no place in the file, so none is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from platen.tokens.gguf_header import GgufHeader, read_header
from platen.tokens.gguf_pretokenizers import begins_texts, patterns_named, takes_whole_words
from platen.tokens.pieces import ConversionError, Kind, Piece, PieceModel, frame, to_tokenizer
from platen.tokens.ranks import byte_level_tokenizer
from platen.tokens.tokenizer import Tokenizer, added_token

_TEMPLATE = "tokenizer.chat_template"
_KIND_OF = {kind.value: kind for kind in Kind}
_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"),
        *("<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>", "<eos>"),
        "<｜end▁of▁sentence｜>",
    )
)
"""Files often name one of several ends alone."""
_NOT_STRIPPING = {"<unk>", "<s>", "<|endoftext|>"}


def read_gguf_vocabulary(file: Path) -> Tokenizer:
    """The tokenizer in a GGUF file.

    Raises BundleError when the file is damaged, ConversionError for another kind.
    """
    return vocabulary_of(read_header(file))


def vocabulary_of(header: GgufHeader) -> Tokenizer:
    """The tokenizer that a file's metadata describe. Raises ConversionError for one not known here."""
    kind = header.of_tokenizer("model")
    try:
        if kind == "llama":
            return _from_pieces(header)
        if kind == "gpt2":
            return _byte_level(header)
    except ConversionError as error:
        raise ConversionError(f"{header.path}: {error.message}", hint=error.hint) from None
    except (TypeError, IndexError, ValueError, KeyError) as error:
        raise ConversionError(
            f"{header.path}: its vocabulary is incomplete: {error!r}", hint="Take the file again."
        ) from None
    raise ConversionError(
        f"{header.path}: a vocabulary of the kind {kind!r} can't be told exactly as tokenizer.json",
        hint="Only llama.cpp's kinds gpt2 and llama can.",
    )


def begins(header: GgufHeader) -> bool:
    """Whether the begin-of-text token goes before a text."""
    usual = header.of_tokenizer("model") == "llama" or begins_texts(header.of_tokenizer("pre", "default"))
    return bool(header.of_tokenizer("add_bos_token", usual))


def end_ids(header: GgufHeader) -> tuple[int, ...]:
    """Every token that ends an answer: those that the file names, and those that are known by their text."""
    named = {header.of_tokenizer(f"{name}_token_id") for name in ("eos", "eot", "eom")}
    texts = header.of_tokenizer("tokens", ())
    known = {id for id, text in enumerate(texts) if text in _ENDS}
    return tuple(sorted(known | {id for id in named if id is not None and id < len(texts)}))


def _kinds(header: GgufHeader) -> list[Kind]:
    """Of each token. What ends or begins a text is a mark, also where a file calls it an ordinary token."""
    kinds = [_KIND_OF.get(number, Kind.NORMAL) for number in header.of_tokenizer("token_type")]
    bos = header.of_tokenizer("bos_token_id")
    for id in (*end_ids(header), *(() if bos is None else (bos,))):
        if kinds[id] in (Kind.NORMAL, Kind.USER_DEFINED):
            kinds[id] = Kind.CONTROL
    return kinds


def _from_pieces(header: GgufHeader) -> Tokenizer:
    texts, scores, kinds = header.of_tokenizer("tokens"), header.of_tokenizer("scores"), _kinds(header)
    unknown = header.of_tokenizer("unknown_token_id", 0)
    kinds = [Kind.CONTROL if kind is Kind.UNKNOWN else kind for kind in kinds]
    kinds[unknown] = Kind.UNKNOWN
    pieces = [Piece(*entry) for entry in zip(texts, scores, kinds, strict=True)]
    model = PieceModel(
        algorithm="bpe",
        pieces=tuple(pieces),
        dummy_prefix=bool(header.of_tokenizer("add_space_prefix", True)),
        bos_id=header.of_tokenizer("bos_token_id"),
        eos_id=header.of_tokenizer("eos_token_id"),
        pad_id=header.of_tokenizer("padding_token_id"),
        begins=begins(header),
        ends=bool(header.of_tokenizer("add_eos_token", False)),
        chat_template=_template(header),
        stripping=_stripping(header, pieces),
    )
    return to_tokenizer(model, skip_unused=True)


def _byte_level(header: GgufHeader) -> Tokenizer:
    pre = header.of_tokenizer("pre", "default")
    texts = header.of_tokenizer("tokens")
    entries = [(id, text, kind) for id, (text, kind) in enumerate(zip(texts, _kinds(header), strict=True))]
    vocabulary = {text: id for id, text, kind in entries if kind is not Kind.UNUSED}
    added = [
        added_token(id, text, kind is not Kind.USER_DEFINED)
        for id, text, kind in entries
        if kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
    ]
    names = ("bos", "eos", "padding", "unknown")
    ids: dict[str, int | None] = {name: header.of_tokenizer(f"{name}_token_id") for name in names}
    keys = dict(zip(names, ("bos_token", "eos_token", "pad_token", "unk_token"), strict=True))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {keys[name]: texts[id] for name, id in ids.items() if id is not None}
    config["clean_up_tokenization_spaces"] = False
    if (template := _template(header)) is not None:
        config["chat_template"] = template

    def mark(name: str, wanted: bool) -> tuple[str, int] | None:
        id = ids[name]
        return (texts[id], id) if wanted and id is not None else None

    return byte_level_tokenizer(
        patterns_named(pre),
        vocabulary,
        list(_merges(header, vocabulary)),
        added,
        config,
        ignore_merges=takes_whole_words(pre),
        frame=frame(mark("bos", begins(header)), mark("eos", bool(header.of_tokenizer("add_eos_token")))),
    )


def _merges(header: GgufHeader, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of tokens that make a third, in order; what leads to no token is of no use and left out."""
    for merge in header.of_tokenizer("merges"):
        cut = merge.find(" ", 1)
        first, second = merge[:cut], merge[cut + 1 :]
        if cut > 0 and first in vocabulary and second in vocabulary and first + second in vocabulary:
            yield first, second


def _stripping(header: GgufHeader, pieces: Sequence[Piece]) -> frozenset[str]:
    """Phi-3's marks take the blanks after them along. A file says so by its name alone."""
    name = str(header.fields.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    marks = (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)
    return frozenset(piece.text for piece in pieces if piece.kind in marks) - _NOT_STRIPPING


def _template(header: GgufHeader) -> Any:
    """The chat template; where there are several, a list as in `tokenizer_config.json`."""
    named = {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in header.fields.items()
        if key.startswith(f"{_TEMPLATE}.")
    }
    default = header.fields.get(_TEMPLATE)
    if not named:
        return default
    both = ({} if default is None else {"default": default}) | named
    return [{"name": name, "template": text} for name, text in both.items()]
