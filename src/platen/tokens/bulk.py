"""Many or long texts to ids, on all cores: by gigatoken where that gives the same ids, else by tokenizers.

gigatoken cuts texts into words by code of its own instead of a regular expression, which is most of the work
elsewhere. Texts come in pieces of bounded size where the tokenizer allows a cut, so memory stays bounded too.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from platen.core.errors import DataError, MissingExtraError
from platen.tokens.fast import FastEncoder, Ids
from platen.tokens.pieces import ConversionError
from platen.tokens.ranks import LLAMA3_PATTERN, Ranks, ranks_of
from platen.tokens.tokenizer import Tokenizer

T = TypeVar("T")
R = TypeVar("R")

# A line end before a visible character is always a cut for Llama 3's pattern, so a long text can be encoded
# in pieces that end there, with the same ids as in one piece.
_SAFE_CUT = re.compile(r"\n(?=\S)")
# Where ways to cut a text differ if they do: contractions in letters of other alphabets, marks, digits of
# several kinds, blanks of all widths, line ends, characters out of the first plane.
_AWKWARD = (
    "I'LL it'\u017f don'T l'\u00e9t\u00e9 a\u0301\u0327 12345 \u0664\u0665\u0666\u0667 \u2167\u00bd "
    "\u4e00\u4e8c3 \u00a0\u3000 x\u200b\u2028y\x85z \r\n\r\n\t  end  \n  !!\r\n?\x00\x1f"
    "\U0001f469\u200d\U0001f680 \U00020000\U0001d7d8 _a_ $9.99 \ufeff\ufffd\U0010ffff   "
)
_PIECE_CHARACTERS = 1_000_000
_BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Piece:
    """A part of a document; whether it is its beginning and its end."""

    text: str
    first: bool
    last: bool


@dataclass(frozen=True)
class Encoded:
    """The ids of a piece, and how many bytes its text has in UTF-8."""

    ids: Ids
    bytes: int
    first: bool
    last: bool


class BulkEncoder:
    """Ids as `Tokenizer.encode` gives them, with and without `special`."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._marks: re.Pattern[str] | None = None
        self._fast: FastEncoder | None = None
        ranks: Ranks | None = None
        added = tokenizer.added_tokens
        self._mark_ids = {token.content: token.id for token in added if special or not token.special}
        try:
            ranks = ranks_of(tokenizer)
            if not any(token.looks_around for token in added):
                self._fast, self._marks = FastEncoder(tokenizer), _any_of(self._mark_ids)
                if self.ids(_AWKWARD).tolist() != tokenizer.encode(_AWKWARD, special=special):
                    self._fast = None
        except (ConversionError, MissingExtraError):
            pass  # the library's own encoder can do all
        wide = any("\n" in token.content or token.looks_around for token in added)
        self._cuts = ranks is not None and ranks.pattern == LLAMA3_PATTERN and not wide

    @property
    def fast(self) -> bool:
        """Whether gigatoken's encoder does the work."""
        return self._fast is not None

    def ids(self, text: str) -> Ids:
        """Ids of a text. Raises DataError when it has half a surrogate pair, which is no character."""
        try:
            if self._fast is None:
                return self._slow(text)
            if self._marks is None:
                return self._run(self._fast, text)
            parts = self._marks.split(text)  # text, mark, text, …
            found = [
                np.asarray([self._mark_ids[part]], dtype=np.uint32) if i % 2 else self._run(self._fast, part)
                for i, part in enumerate(parts)
                if part
            ]
            return np.concatenate(found) if found else np.empty(0, dtype=np.uint32)
        except UnicodeEncodeError as error:
            raise DataError(
                f"a text has U+{ord(text[error.start]):04X}, half a surrogate pair, which is no character",
                hint="Repair the text, or leave it out.",
            ) from None

    def _run(self, fast: FastEncoder, text: str) -> Ids:
        found = fast.encode(text)
        return self._slow(text) if found is None else found

    def _slow(self, text: str) -> Ids:
        return np.asarray(self._tokenizer.encode(text, special=self._special), dtype=np.uint32)

    def pieces(self, text: str) -> Iterator[Piece]:
        """Cut a text where the tokenizer would cut anyway, about every million characters."""
        start = 0
        while True:
            cut = _SAFE_CUT.search(text, start + _PIECE_CHARACTERS) if self._cuts else None
            stop = cut.end() if cut else len(text)
            yield Piece(text[start:stop], first=start == 0, last=cut is None)
            if cut is None:
                return
            start = stop

    def encode(
        self, texts: Iterable[str], then: Callable[[list[Encoded]], R], *, workers: int | None = None
    ) -> Iterator[R]:
        """Encode batches of pieces on `workers` threads (None: one a core); `then` of each, in order.

        `then` runs on those threads too: what the caller's thread does for each piece, all would wait for.
        """
        return in_order(lambda batch: then(self._encode_batch(batch)), self._batches(texts), workers)

    def encode_stream(
        self, parts: Iterable[str], then: Callable[[list[Encoded]], R], *, workers: int | None = None
    ) -> Iterator[R]:
        """The same for one text that comes in parts; what the tokenizer can't cut is held."""
        return in_order(lambda batch: then(self._encode_batch(batch)), self._stream(parts), workers)

    def _stream(self, parts: Iterable[str]) -> Iterator[list[Piece]]:
        held: list[str] = []
        first = True
        for part in parts:
            held.append(part)
            if self._cuts:
                *whole, rest = self.pieces("".join(held))
                for piece in whole:
                    yield [Piece(piece.text, first, last=False)]
                    first = False
                held = [rest.text]
        yield [Piece("".join(held), first, last=True)]

    def _encode_batch(self, batch: list[Piece]) -> list[Encoded]:
        return [
            Encoded(self.ids(piece.text), len(piece.text.encode("utf-8")), piece.first, piece.last)
            for piece in batch
        ]

    def _batches(self, texts: Iterable[str]) -> Iterator[list[Piece]]:
        batch: list[Piece] = []
        characters = 0
        for text in texts:
            for piece in self.pieces(text):
                batch.append(piece)
                characters += len(piece.text)
                if characters >= _BATCH_CHARACTERS:
                    yield batch
                    batch, characters = [], 0
        if batch:
            yield batch


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """`map(work, items)` on threads, results in order, few items ahead of what is taken."""
    count = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) > 2 * count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of the texts, the longest first."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None
