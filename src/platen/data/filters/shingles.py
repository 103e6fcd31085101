"""Words and n-grams of words as 64-bit numbers, for everything that looks for shared passages.

A word is a run of letters and digits in lower case; where a script writes no blanks between words, each
character is one. All of it is array arithmetic: about 10 MB/s on one core.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]

_PIECE = 1_000_000
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_MARKS = re.compile(
    "[\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u2000-\u206f\u3000-\u303f\uff00-\uff0f]"
)
_random = np.random.Generator(np.random.PCG64(20_240_601))
_LETTERS = _random.integers(1, 2**63, 256, dtype=np.uint64)
_POSITIONS = _random.integers(1, 2**63, 64, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_IS_WORD = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
_LETTERS[~_IS_WORD] = 0
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)


def word_hashes(text: str) -> Hashes:
    """A number for each word of a text, equal for equal words."""
    lower = text.lower()
    if not lower.isascii():
        lower = _UNSPACED.sub(r" \g<0> ", _MARKS.sub(" ", lower))
    raw = lower.encode("utf-8", "replace")
    pieces = []
    while raw:
        cut = len(raw) if len(raw) <= _PIECE else raw.find(b" ", _PIECE) + 1 or len(raw)
        pieces.append(_piece_hashes(np.frombuffer(raw[:cut], np.uint8)))
        raw = raw[cut:]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)


def _piece_hashes(raw: npt.NDArray[np.uint8]) -> Hashes:
    inside = _IS_WORD[raw]
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.zeros(0, np.uint64)
    spans = np.diff(starts, append=len(raw))
    first = starts[0]
    place = np.arange(first, len(raw)) - np.repeat(starts, spans)
    sums = np.add.reduceat(_LETTERS[raw[first:]] * _POSITIONS[place & 63], starts - first)
    return _mixed(sums)


def ngrams(words: Hashes, n: int) -> Hashes:
    """A number for each `n` words in a row, equal for equal ones; empty where there are fewer words."""
    count = len(words) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for place in range(n):
        total = total * _STEP + words[place : place + count]
    return _mixed(total)


def _mixed(values: Hashes) -> Hashes:
    """Every bit depends on all lower ones (the finaliser of splitmix64)."""
    values = (values ^ (values >> _SHIFT)) * _MIX
    return values ^ (values >> _SHIFT)
