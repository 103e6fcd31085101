"""Says how much a text looks like prompt injection: an attempt to turn the model against its instructions.

Heuristics, not understanding: it knows the usual ways and the usual disguises (look-alike letters, letters
spelled out, digits for letters, base64, hexadecimal, percent signs, ROT13, reversal), and a new way gets past
it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from platen.scan.fold import fold
from platen.serve.guards.injection_rules import BARE_CLUES, RAW_CLUES, WORD_CLUES, Clue

_WORD = re.compile(r"\w{1,24}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,4096}={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}[ :]?){12,2048}")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_BACKWARDS = re.compile(r"snoitcurtsni|tpmorp|erongi")
_ROT13 = re.compile(r"vafgehpgvba|cebzcg|vtaber")  # instruction, prompt, ignore
_DIGITS_IN_WORDS = re.compile(r"[a-z][0134578@$][a-z]")
_LETTERS = str.maketrans("0134578@$", "oieastbas")
_NOT_LETTERS = re.compile(r"[^a-z]+")

WINDOW, OVERLAP = 16_384, 4_096
"""Characters looked at together, and those of them that the next window has too."""

DISGUISED = 0.3
"""Added when something was found only behind a disguise: honest texts seldom wear one."""


@dataclass(frozen=True)
class Suspicion:
    """How suspicious a text is, 1 being enough to act by default, and the rules that say so."""

    score: float
    rules: tuple[str, ...]


def suspicion(text: str) -> Suspicion:
    """Looks at a whole text. Linear in its length."""
    clues: set[Clue] = set()
    disguises: set[str] = set()
    # A window at a time: one search of a pattern keeps every other thread waiting.
    for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        window = text[start : start + WINDOW]
        clues |= _clues(window)
        for disguise, plain in _undisguised(window):
            hidden = _clues(plain)
            if not hidden <= clues:
                clues |= hidden
                disguises.add(disguise)
    score = sum(clue.weight for clue in clues) + DISGUISED * len(disguises)
    return Suspicion(round(score, 3), tuple(sorted({clue.rule for clue in clues} | disguises)))


def _clues(text: str) -> set[Clue]:
    folded = fold(text).text
    words = " ".join(_WORD.findall(folded))
    views = ((WORD_CLUES, words), (RAW_CLUES, text), (BARE_CLUES, _NOT_LETTERS.sub("", folded)))
    return {
        clue
        for clues, view in views
        for clue in clues
        if any(need in view for need in clue.needs) and clue.pattern.search(view)
    }


def _undisguised(text: str) -> Iterator[tuple[str, str]]:
    """The texts that a text may hide, each with the name of its disguise."""
    folded = fold(text).text
    if _DIGITS_IN_WORDS.search(folded):
        yield "digits", folded.translate(_LETTERS)
    if len(_PERCENT.findall(text)) > 3:
        yield "percent", unquote(text, errors="ignore")
    if _BACKWARDS.search(folded):
        yield "reversed", text[::-1]
    if _ROT13.search(folded):
        yield "rot13", codecs.encode(text, "rot13")
    for name, pattern, decode in (("base64", _BASE64, _from_base64), ("hex", _HEX, _from_hex)):
        decoded = [part for found in pattern.finditer(text) if (part := decode(found.group()))]
        if decoded:
            yield name, "\n".join(decoded)


def _from_base64(digits: str) -> str:
    digits = digits.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _legible(base64.b64decode(digits + "=" * (-len(digits) % 4)))
    except binascii.Error:
        return ""


def _from_hex(digits: str) -> str:
    return _legible(bytes.fromhex(re.sub("[ :]", "", digits)))


def _legible(data: bytes) -> str:
    """Bytes as text if they are one, else nothing."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""
    printable = sum(letter.isprintable() or letter.isspace() for letter in text)
    return text if printable >= 0.95 * len(text) else ""
