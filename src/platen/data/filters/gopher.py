"""The rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1): quality and repetition.

Words are what blanks part. The order of the rules is datatrove's, so that the first reason is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from platen.data.filters.block import Rules
from platen.data.filters.config import GopherQualityBlock, GopherRepetitionBlock
from platen.data.filters.shingles import Hashes, ngrams

_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")
_LETTER = re.compile(r"[^\W\d_]")
_MORE_THAN_MARKS = re.compile(r"\w")


class GopherQuality(Rules):
    """Length, word length, symbols, bullets, ellipses, letters, stop words."""

    def __init__(self, config: GopherQualityBlock) -> None:
        super().__init__(config.block)
        self._config = config
        self._stop_words = frozenset(config.stop_words)

    def reason(self, text: str) -> str | None:
        config, words = self._config, text.split()
        spoken = [len(word) for word in words if _MORE_THAN_MARKS.search(word)]
        if len(spoken) < config.min_words:
            return "too few words"
        if len(spoken) > config.max_words:
            return "too many words"
        mean = sum(spoken) / len(spoken)
        if not config.min_mean_word <= mean <= config.max_mean_word:
            return "length of words"
        symbols = max(text.count("#"), sum(map(text.count, _ELLIPSES)))
        if symbols / len(words) > config.max_symbol_ratio:
            return "too many symbols"
        lines = text.splitlines()
        if sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines) > config.max_bullet_lines:
            return "too many bullets"
        if sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines) > config.max_ellipsis_lines:
            return "too many ellipses"
        lettered = sum(1 for word in words if _LETTER.search(word))
        if lettered / len(words) < config.min_alphabetic_words:
            return "too few words with letters"
        if len(self._stop_words.intersection(words)) < config.min_stop_words:
            return "too few stop words"
        return None


class GopherRepetition(Rules):
    """Lines, paragraphs and n-grams that are said again."""

    def __init__(self, config: GopherRepetitionBlock) -> None:
        super().__init__(config.block)
        self._config = config

    def reason(self, text: str) -> str | None:
        config = self._config
        if not text:
            return "empty"
        for what, parts in (
            ("paragraphs", re.split(r"\n{2,}", text.strip())),
            ("lines", re.split(r"\n+", text)),
        ):
            count, characters = repeated(parts)
            if count / len(parts) > config.max_duplicate_lines:
                return f"repeated {what}"
            if characters / len(text) > config.max_duplicate_line_characters:
                return f"repeated characters in {what}"
        words = text.split()
        # Equal words have equal hashes in one process, and only equality matters here.
        codes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        for n, limit in zip((2, 3, 4), config.top_ngrams, strict=True):
            if top_ngram_characters(codes, lengths, n) / len(text) > limit:
                return f"most frequent {n}-gram"
        for n, limit in zip(range(5, 11), config.duplicate_ngrams, strict=True):
            characters = repeated_ngram_characters(codes, lengths, n)
            if characters / len(text) > limit:
                return f"repeated {n}-grams"
            if not characters:  # then no longer one repeats
                break
        return None


def repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and their characters."""
    unique = set(parts)
    if len(unique) == len(parts):
        return 0, 0
    return len(parts) - len(unique), sum(map(len, parts)) - sum(map(len, unique))


def top_ngram_characters(codes: Hashes, lengths: npt.NDArray[np.int64], n: int) -> int:
    """Characters, with the blanks between words, in all occurrences of the most frequent n-gram."""
    grams = ngrams(codes, n)
    if not len(grams):
        return 0
    _, firsts, counts = np.unique(grams, return_index=True, return_counts=True)
    most = counts.max()
    first = int(firsts[counts == most].min())  # of equally frequent ones, the first in the text
    return int(most) * (int(lengths[first : first + n].sum()) + n - 1)


def repeated_ngram_characters(codes: Hashes, lengths: npt.NDArray[np.int64], n: int) -> int:
    """Characters in n-grams that occurred before, each character counted once."""
    grams = ngrams(codes, n)
    if len(np.unique(grams)) == len(grams):
        return 0
    seen: set[int] = set()
    listed, ends = grams.tolist(), np.concatenate(([0], np.cumsum(lengths))).tolist()
    total = at = 0
    while at < len(listed):
        if listed[at] in seen:
            total += ends[at + n] - ends[at]
            at += n
        else:
            seen.add(listed[at])
            at += 1
    return total
