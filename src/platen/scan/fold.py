"""Texts as they look rather than as they are spelled: wide, accented and look-alike letters as plain ones.

Invisible characters vanish. The folded text knows where in the original each of its characters came from.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

# Cyrillic, Greek, Armenian and small-capital letters, in lower case, by the Latin letter they look like.
_LOOKALIKES = {
    ord(letter): latin
    for latin, letters in {
        "a": "аαɑᴀ",
        "b": "ьβ",
        "c": "сϲᴄ",
        "d": "ԁɗᴅ",
        "e": "еεᴇ",
        "f": "ꜰ",
        "g": "ɡցɢ",
        "h": "һհʜ",
        "i": "іιıɪ",
        "j": "јϳᴊ",
        "k": "кκᴋ",
        "l": "ӏǀʟ",
        "m": "мᴍ",
        "n": "ոηɴп",
        "o": "оοօσᴏ",
        "p": "рρᴘ",
        "q": "ԛգ",
        "r": "гʀ",
        "s": "ѕꜱ",
        "t": "тτᴛ",
        "u": "υսᴜ",
        "v": "ѵνᴠ",
        "w": "ԝωᴡ",
        "x": "хχ",
        "y": "уγʏ",
        "z": "ᴢ",
    }.items()
    for letter in letters
}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_LAST_ASCII = 127


class _Looks(dict[int, str]):
    """For `str.translate`: what a character looks like in lower case; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        plain = [
            letter
            for letter in unicodedata.normalize("NFKD", chr(code))
            if unicodedata.category(letter) not in ("Mn", "Me", "Cf")
        ]
        text = "".join(plain).casefold().translate(_LOOKALIKES)
        self[code] = text
        return text


class _Wide(dict[int, str]):
    """For `str.translate`: wide letters, any script's digits, blanks and dashes as ASCII, one for one."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        plain = unicodedata.normalize("NFKC", letter)
        if letter in _DASHES:
            plain = "-"
        elif letter.isdecimal():
            plain = str(unicodedata.decimal(letter))
        if len(plain) != 1 or ord(plain) > _LAST_ASCII:
            plain = letter
        self[code] = plain
        return plain


_looks, _wide = _Looks(), _Wide()


@dataclass(frozen=True)
class Folded:
    """`text`, and `places[i]`: where in the original its character `i` came from; None: at the same place."""

    text: str
    places: list[int] | None

    def place(self, index: int) -> int:
        """Where in the original the folded text's character `index` came from."""
        return index if self.places is None else self.places[index]


def fold(text: str) -> Folded:
    """A text in lower case, without accents, with look-alikes as Latin letters and nothing invisible."""
    if text.isascii():
        return Folded(text.lower(), None)
    pieces = [_looks[ord(letter)] for letter in text]
    folded = "".join(pieces)
    if len(folded) == len(text) and all(pieces):
        return Folded(folded, None)
    places = [place for place, piece in enumerate(pieces) for _ in piece]
    return Folded(folded, places)


def fold_width(text: str) -> str:
    """A text with wide letters and all digits, blanks and dashes in ASCII; as long as before."""
    return text if text.isascii() else text.translate(_wide)
