"""SentencePiece's own file, `tokenizer.model`: read into pieces, written from them."""

from __future__ import annotations

from typing import Any

from platen.core.errors import MissingExtraError
from platen.tokens.pieces import ConversionError, Kind, Piece, PieceModel

_UNIGRAM, _BPE = 1, 2


def read_sentencepiece(data: bytes) -> PieceModel:
    """The pieces in a `tokenizer.model`. Raises ConversionError when it is damaged or of another kind."""
    proto = _proto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no common home over its versions
        raise ConversionError(
            f"not a SentencePiece model: {error}", hint="Take the file again from where it comes from."
        ) from None
    kind = proto.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE) or not proto.pieces:
        raise ConversionError(
            "only SentencePiece's BPE and Unigram models can be read, and this is neither",
            hint="Check that it is a SentencePiece model.",
        )
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise ConversionError(
            "its blanks stand at the ends of words, which tokenizer.json can't say",
            hint="Go on using it with sentencepiece.",
        )
    pieces = tuple(Piece(piece.piece, piece.score, Kind(piece.type)) for piece in proto.pieces)

    def control(id: int) -> int | None:
        return id if 0 <= id < len(pieces) and pieces[id].kind is Kind.CONTROL else None

    return PieceModel(
        algorithm="bpe" if kind == _BPE else "unigram",
        pieces=pieces,
        dummy_prefix=proto.normalizer_spec.add_dummy_prefix,
        collapse_blanks=proto.normalizer_spec.remove_extra_whitespaces,
        charsmap=proto.normalizer_spec.precompiled_charsmap,
        bos_id=control(proto.trainer_spec.bos_id),
        eos_id=control(proto.trainer_spec.eos_id),
        pad_id=control(proto.trainer_spec.pad_id),
    )


def write_sentencepiece(model: PieceModel) -> bytes:
    """The content of a `tokenizer.model` with these pieces."""
    proto = _proto()
    for piece in model.pieces:
        proto.pieces.add(piece=piece.text, score=piece.score, type=int(piece.kind))
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = _BPE if model.algorithm == "bpe" else _UNIGRAM
    trainer.vocab_size = len(model.pieces)
    trainer.byte_fallback = any(piece.kind is Kind.BYTE for piece in model.pieces)
    trainer.unk_id = model.unknown_id
    trainer.unk_piece = model.pieces[model.unknown_id].text
    for name in ("bos", "eos", "pad"):
        id = getattr(model, f"{name}_id")
        setattr(trainer, f"{name}_id", -1 if id is None else id)
        if id is not None:
            setattr(trainer, f"{name}_piece", model.pieces[id].text)
    normalizer.name = "user_defined" if model.charsmap else "identity"
    normalizer.precompiled_charsmap = model.charsmap
    normalizer.add_dummy_prefix = model.dummy_prefix
    normalizer.remove_extra_whitespaces = model.collapse_blanks
    normalizer.escape_whitespaces = True
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def sentencepiece_processor(data: bytes) -> Any:
    """The model in SentencePiece's own code. Raises ConversionError when that refuses it."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MissingExtraError("data", "a SentencePiece model") from None
    try:
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ConversionError(
            f"SentencePiece refuses the model: {error}", hint="Take the file again from where it comes from."
        ) from None


# The fields that are used here of sentencepiece_model.proto (proto2): name, number, type, default. The
# package's own class works with newer releases of protobuf only than others here do.
_FIELDS: dict[str, tuple[tuple[str, int, str, str | None], ...]] = {
    "SentencePiece": (("piece", 1, "STRING", None), ("score", 2, "FLOAT", None), ("type", 3, "INT32", "1")),
    "TrainerSpec": (
        ("model_type", 3, "INT32", "1"),
        ("vocab_size", 4, "INT32", "8000"),
        ("treat_whitespace_as_suffix", 24, "BOOL", "false"),
        ("byte_fallback", 35, "BOOL", "false"),
        ("unk_id", 40, "INT32", "0"),
        ("bos_id", 41, "INT32", "1"),
        ("eos_id", 42, "INT32", "2"),
        ("pad_id", 43, "INT32", "-1"),
        ("unk_piece", 45, "STRING", "<unk>"),
        ("bos_piece", 46, "STRING", "<s>"),
        ("eos_piece", 47, "STRING", "</s>"),
        ("pad_piece", 48, "STRING", "<pad>"),
    ),
    "NormalizerSpec": (
        ("name", 1, "STRING", None),
        ("precompiled_charsmap", 2, "BYTES", None),
        ("add_dummy_prefix", 3, "BOOL", "true"),
        ("remove_extra_whitespaces", 4, "BOOL", "true"),
        ("escape_whitespaces", 5, "BOOL", "true"),
    ),
    "ModelProto": (
        ("pieces", 1, "SentencePiece", None),
        ("trainer_spec", 2, "TrainerSpec", None),
        ("normalizer_spec", 3, "NormalizerSpec", None),
    ),
}


def _proto() -> Any:
    """An empty ModelProto."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise MissingExtraError("data", "a SentencePiece model") from None
    file = descriptor_pb2.FileDescriptorProto(
        name="platen/pieces.proto", package="platen.pieces", syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            field = described.field.add(name=name, number=number, label=3 if name == "pieces" else 1)
            if kind in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".platen.pieces.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind}")
            if default is not None:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("platen.pieces.ModelProto"))()
