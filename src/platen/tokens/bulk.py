"""Many or long texts to ids, on all cores: by gigatoken where that gives the same ids, else by tokenizers.

gigatoken cuts texts into words by code of its own instead of a regular expression, which is most of the work
elsewhere. Texts come in pieces of bounded size where the tokenizer allows a cut, so memory stays bounded too.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from platen.errors import DataError
from platen.tokens.pieces import ConversionError
from platen.tokens.ranks import LLAMA3_PATTERN, Ranks, ranks_of
from platen.tokens.tokenizer import Tokenizer

Ids = NDArray[np.uint32]
T = TypeVar("T")
R = TypeVar("R")

# A line end before a visible character is always a cut for Llama 3's pattern, so a long text can be encoded
# in pieces that end there, with the same ids as in one piece.
_SAFE_CUT = re.compile(r"\n(?=\S)")
# Letters and digits new in Unicode 17, which gigatoken knows and the regular expressions of tokenizers don't.
# fmt: off
_NEW_LETTERS = (
    (0x88F, 0x88F), (0xC5C, 0xC5C), (0xCDC, 0xCDC), (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4),
    (0xA7F1, 0xA7F1), (0x10940, 0x10959), (0x10EC5, 0x10EC7), (0x11DB0, 0x11DDB), (0x11DE0, 0x11DE9),
    (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3), (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E),
    (0x18D80, 0x18DF2), (0x1E6C0, 0x1E6DE), (0x1E6E0, 0x1E6E2), (0x1E6E4, 0x1E6E5), (0x1E6E7, 0x1E6ED),
    (0x1E6F0, 0x1E6F4), (0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479),
)
# fmt: on
_ANY_NEW_LETTER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _NEW_LETTERS) + "]")
_NEW_STARTS = sorted(
    {chr(code).encode()[:2] for first, last in _NEW_LETTERS for code in range(first, last + 1)}
)
"""What they begin with in UTF-8: found ten times as fast as they are."""
_NEW_LEADS = sorted({start[:1] for start in _NEW_STARTS})
# Where ways to cut a text differ if they do: contractions in letters of other alphabets, marks, digits of
# several kinds, blanks of all widths, line ends, characters out of the first plane.
_AWKWARD = (
    "I'LL it'\u017f don'T l'\u00e9t\u00e9 a\u0301\u0327 12345 \u0664\u0665\u0666\u0667 \u2167\u00bd "
    "\u4e00\u4e8c3 \u00a0\u3000 x\u200b\u2028y\x85z \r\n\r\n\t  end  \n  !!\r\n?\x00\x1f"
    "\U0001f469\u200d\U0001f680 \U00020000\U0001d7d8 _a_ $9.99 \ufeff\ufffd\U0010ffff   "
)
_PIECE_CHARACTERS = 1_000_000
# gigatoken remembers every word that it met, up to seven times the text's size; a new encoder takes 50 ms.
_BYTES_AN_ENCODER = 64_000_000
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
        self._fast: Any = None
        self._raw = _plain(tokenizer)
        self._seen = (
            0  # bytes that `_fast` has encoded; threads may lose some of the count, which does no harm
        )
        ranks: Ranks | None = None
        added = tokenizer.added_tokens
        self._mark_ids = {token.content: token.id for token in added if special or not token.special}
        try:
            ranks = ranks_of(tokenizer)
            if not any(token.looks_around for token in added):
                self._fast = _fast_encoder(self._raw)
                self._marks = _any_of(self._mark_ids)
        except ConversionError:
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
                return self._run(text)
            parts = self._marks.split(text)  # text, mark, text, …
            found = [
                np.asarray([self._mark_ids[part]], dtype=np.uint32) if i % 2 else self._run(part)
                for i, part in enumerate(parts)
                if part
            ]
            return np.concatenate(found) if found else np.empty(0, dtype=np.uint32)
        except UnicodeEncodeError as error:
            raise DataError(
                f"a text has U+{ord(text[error.start]):04X}, half a surrogate pair, which is no character",
                hint="Repair the text, or leave it out.",
            ) from None

    def _run(self, text: str) -> Ids:
        data = text.encode("utf-8")
        if not text.isascii() and _has_new_letters(text, data):
            return self._slow(text)
        self._seen += len(data)
        if self._seen > _BYTES_AN_ENCODER:
            self._seen, self._fast = len(data), _load(self._raw)
        found: Ids = self._fast.encode(data)
        return found

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


def _plain(tokenizer: Tokenizer) -> str:
    """The tokenizer without its added tokens, as `tokenizer.json`."""
    return json.dumps(json.loads(tokenizer.raw) | {"added_tokens": [], "post_processor": None})


def _load(raw: str) -> Any:
    from gigatoken.gigatoken_rs import load_hf_json

    return load_hf_json(raw)


def _fast_encoder(raw: str) -> Any:
    """gigatoken's encoder of plain text; None where it is not installed or would give other ids."""
    try:
        fast = _load(raw)
    except (ImportError, ValueError, RuntimeError):  # it knows the patterns of well-known models alone
        return None
    same = list(fast.encode(_AWKWARD)) == Backend.from_str(raw).encode(_AWKWARD, add_special_tokens=False).ids
    return fast if same else None


def _has_new_letters(text: str, data: bytes) -> bool:
    """Whether a text, whose UTF-8 is `data`, has letters that only Unicode 17 knows as such."""
    if not any(lead in data for lead in _NEW_LEADS) or not any(start in data for start in _NEW_STARTS):
        return False
    return _ANY_NEW_LETTER.search(text) is not None


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of the texts, the longest first."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None
