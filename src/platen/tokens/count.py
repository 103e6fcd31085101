"""How many tokens texts have: files of any size, or standard input, on all cores."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from platen.core.errors import DataError
from platen.tokens.bulk import BulkEncoder, Encoded
from platen.tokens.tokenizer import Tokenizer

_READ_BYTES = 4_000_000


@dataclass(frozen=True)
class Count:
    """Of a text or several; bytes are those of the texts, in UTF-8."""

    name: str
    tokens: int
    characters: int
    bytes: int


def total(name: str, counts: Iterable[Count]) -> Count:
    """All of them together."""
    tokens, characters, size = 0, 0, 0
    for count in counts:
        tokens, characters, size = tokens + count.tokens, characters + count.characters, size + count.bytes
    return Count(name, tokens, characters, size)


class Counter:
    """Counts as the server's `/tokenize` does: special tokens that stand in a text are such."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encoder = BulkEncoder(tokenizer, special=True)

    def count_texts(self, name: str, texts: Iterable[str]) -> Count:
        """Count texts each by itself. Raises what `texts` does."""
        characters = 0

        def watched() -> Iterator[str]:
            nonlocal characters
            for text in texts:
                characters += len(text)
                yield text

        found = list(self._encoder.encode(watched(), _tokens_and_bytes))
        return Count(name, sum(tokens for tokens, _ in found), characters, sum(size for _, size in found))

    def count(self, name: str, file: IO[bytes]) -> Count:
        """Count a text while it is read, in bounded memory where the tokenizer allows cuts.

        Raises DataError for what is no UTF-8.
        """
        characters = size = 0

        def decoded() -> Iterator[str]:
            nonlocal characters, size
            decoder = codecs.getincrementaldecoder("utf-8")()
            while True:
                data = file.read(_READ_BYTES)
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    at = size + len(data) - len(error.object) + error.start
                    raise DataError(
                        f"{name} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {at}",
                        hint="Convert it first, for example with iconv.",
                    ) from None
                characters, size = characters + len(text), size + len(data)
                yield text
                if not data:
                    return

        tokens = sum(self._encoder.encode_stream(decoded(), _tokens))
        return Count(name, tokens, characters, size)


def _tokens_and_bytes(batch: list[Encoded]) -> tuple[int, int]:
    return _tokens(batch), sum(found.bytes for found in batch)


def _tokens(batch: list[Encoded]) -> int:
    return sum(len(found.ids) for found in batch)
