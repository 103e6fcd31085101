"""Tokenizers from and to any form: `tokenizer.json`, SentencePiece's `tokenizer.model`, tiktoken ranks, GGUF.

A conversion is exact or refused: what was written is read back, and texts of all kinds and of every part of
Unicode must have the same ids in both, by the format's own library where that is installed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from platen.core.errors import BundleError
from platen.tokens.folder import SENTENCEPIECE_FILE, TOKENIZER_FILE
from platen.tokens.gguf_vocabulary import read_gguf_vocabulary
from platen.tokens.gguf_write_vocabulary import write_gguf_vocabulary
from platen.tokens.languages import SENTENCES
from platen.tokens.pieces import ConversionError, from_tokenizer, to_tokenizer
from platen.tokens.ranks import LLAMA3_PATTERN, Ranks, ranks_of, read_ranks, tokenizer_of, write_ranks
from platen.tokens.sentencepiece_file import read_sentencepiece, sentencepiece_processor, write_sentencepiece
from platen.tokens.tokenizer import Tokenizer

Encode = Callable[[list[str]], list[list[int]]]


class Form(StrEnum):
    """A form of tokenizer, by the usual ending of its file."""

    json = "json"
    sentencepiece = "sentencepiece"
    tiktoken = "tiktoken"
    gguf = "gguf"


FORM_OF_SUFFIX = {
    ".json": Form.json,
    ".model": Form.sentencepiece,
    ".tiktoken": Form.tiktoken,
    ".gguf": Form.gguf,
}


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder (`tokenizer.json`, else `tokenizer.model`) or in a file of any form.

    Beside tiktoken ranks `NAME.json` may say what the file can't: `pattern` and `special_tokens`, and the
    names `bos_token`, `eos_token`, `pad_token`. Without it the pattern is Llama 3's. Raises BundleError.
    """
    if path.is_dir():
        model = path / SENTENCEPIECE_FILE
        if not (path / TOKENIZER_FILE).is_file() and model.is_file():
            return open_tokenizer(model).with_files_beside(path)
        return Tokenizer.from_dir(path)
    if not path.is_file():
        raise BundleError(f"there is no tokenizer {path}", hint="Give a folder or a file.")
    form = form_of(path)
    if form is Form.gguf:
        return read_gguf_vocabulary(path)
    try:
        data = path.read_bytes()
        if form is Form.json:
            return Tokenizer.from_dir(path.parent) if path.name == TOKENIZER_FILE else Tokenizer(data, {})
        return _from_sentencepiece(data) if form is Form.sentencepiece else _from_ranks(path, data)
    except BundleError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None


def form_of(path: Path) -> Form:
    """The form that a file's ending says. Raises BundleError."""
    if path.suffix in FORM_OF_SUFFIX:
        return FORM_OF_SUFFIX[path.suffix]
    raise BundleError(
        f"{path}: a tokenizer's file ends with {', '.join(FORM_OF_SUFFIX)}", hint="Give it such a name."
    )


def convert(tokenizer: Tokenizer, target: Path, form: Form) -> None:
    """Write the tokenizer to `target`: a folder for `json`, a file for the others.

    Raises ConversionError with the reason when the form can't hold it exactly. Nothing is written then.
    """
    if form is Form.json:
        tokenizer.save(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / f"new{next(suffix for suffix, f in FORM_OF_SUFFIX.items() if f is form)}"
        if form is Form.gguf:
            write_gguf_vocabulary(tokenizer, made)
            require_same(_encode(tokenizer), _encode(read_gguf_vocabulary(made)))
        elif form is Form.sentencepiece:
            data = write_sentencepiece(from_tokenizer(tokenizer))
            require_same(_encode(tokenizer), sentencepiece_processor(data).encode)
            made.write_bytes(data)
        else:
            _write_tiktoken(tokenizer, made)
        for file in Path(scratch).iterdir():
            shutil.move(file, target.with_suffix(file.suffix) if file.suffix != made.suffix else target)


def require_same(first: Encode, second: Encode) -> None:
    """Raises ConversionError with the first text to which the two give different ids."""
    for texts in _batches(_probes()):
        for text, one, other in zip(texts, first(texts), second(texts), strict=True):
            if list(one) != list(other):
                raise ConversionError(
                    f"the result would not be exact: {text[:40]!r} has the ids {one[:12]}… in one form and "
                    f"{list(other)[:12]}… in the other",
                    hint="Keep the tokenizer in its own form.",
                )


def _from_sentencepiece(data: bytes) -> Tokenizer:
    tokenizer = to_tokenizer(read_sentencepiece(data))
    require_same(sentencepiece_processor(data).encode, _encode(tokenizer))
    return tokenizer


def _from_ranks(path: Path, data: bytes) -> Tokenizer:
    beside = path.with_suffix(".json")
    try:
        more = json.loads(beside.read_text("utf-8")) if beside.is_file() else {}
    except ValueError as error:
        raise ConversionError(f"{beside} is not valid JSON: {error}", hint="Correct it.") from None
    ranks = Ranks(more.pop("pattern", LLAMA3_PATTERN), read_ranks(data), more.pop("special_tokens", {}))
    tokenizer = tokenizer_of(ranks, {"tokenizer_class": "PreTrainedTokenizerFast"} | more)
    require_same(_ordinary(ranks), _encode(tokenizer))
    return tokenizer


def _write_tiktoken(tokenizer: Tokenizer, file: Path) -> None:
    ranks = ranks_of(tokenizer)
    require_same(_encode(tokenizer), _ordinary(ranks))
    file.write_bytes(write_ranks(ranks))
    more: dict[str, Any] = {"pattern": ranks.pattern, "special_tokens": dict(ranks.specials)}
    names = ("bos_token", "eos_token", "pad_token", "chat_template")
    more |= {name: tokenizer.config[name] for name in names if tokenizer.config.get(name) is not None}
    text = json.dumps(more, indent=2, ensure_ascii=False) + "\n"
    file.with_suffix(".json").write_text(text, encoding="utf-8")


def _encode(tokenizer: Tokenizer) -> Encode:
    return lambda texts: tokenizer.encode_batch(texts, special=False)


def _ordinary(ranks: Ranks) -> Encode:
    encoding = ranks.encoding()
    return lambda texts: [encoding.encode_ordinary(text) for text in texts]


def _probes() -> Iterator[str]:
    """Texts in which forms could differ: blanks anywhere, digits, code, many languages, all of Unicode."""
    yield from SENTENCES.values()
    yield from (
        "",
        " ",
        "   ",
        " a",
        "a ",
        "a  b",
        "\n",
        "a\n\n b\t\tc",
        "don't WE'LL",
        "1234567 3.14",
        "aaaaaaa",
    )
    yield from ("def f(x):\n    return {'a': x[0]}  # ok\r\n", "▁ <s> <unk> <0x0A> <|end_of_text|>", "a\x00b")
    step = 7
    for start in range(0, 0x110000, 64 * step):
        points = (code for code in range(start, min(start + 64 * step, 0x110000), step))
        yield "x".join(chr(code) for code in points if not 0xD800 <= code < 0xE000)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 512:
            yield batch
            batch = []
    yield batch
