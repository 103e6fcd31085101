"""Counting how the texts of a token file go on, for drafts.

Contexts are dealt out into parts by a hash, and those of one part are sorted and counted at a time: counts
are exact, and memory depends on the size of a part and not of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import ArtifactError, ConfigError, DataError
from platen.engines.batching.draft_ngrams import About, Continuations, Level
from platen.tokens.files import TokenFiles, TokensMeta

Keys = NDArray[np.uint64]

PART_TOKENS = 1 << 24
"""Tokens whose contexts are counted at a time, about; each takes some 60 bytes meanwhile."""
_BLOCK = 1 << 22
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, for Fibonacci hashing


def count_continuations(
    folder: Path, *, order: int = 4, min_count: int = 2, share: float = 0.5, part_tokens: int = PART_TOKENS
) -> Continuations:
    """The likeliest token after each 2 to `order` - 1 tokens of `train.bin` in a folder of token files.

    Kept are tokens that came `min_count` times and more, and in at least `share` of all times, after their
    context; of equally many the smallest. No context reaches over a text's end. Raises DataError when the
    files can't be read, ConfigError for an order that this vocabulary is too large for.
    """
    try:
        files = TokenFiles(folder)
        meta, row = files.meta, files.open("train")
    except ArtifactError as error:
        raise DataError(
            f"{folder} holds no token files that can be read: {error.message}",
            hint="Write them with `platen tokens encode`, or give the folder of the stage `tokens`.",
        ) from None
    if meta.vocab_size ** (order - 1) > 1 << 64:
        raise ConfigError(
            f"{order - 1} tokens of {meta.vocab_size:,} are more than a number of 64 bits tells apart",
            hint=f"for example --order {order - 1}",
        )
    levels = [
        _level(row, length, meta, min_count, share, max(1, -(-len(row) // part_tokens)))
        for length in range(2, order)
    ]
    if not any(len(level.contexts) for level in levels):
        raise DataError(
            f"nothing in {files.path('train')} comes often enough to be guessed",
            hint="Give more text, or a lower --min-count or --share.",
        )
    return Continuations(About(order, meta.vocab_size, meta.tokenizer_sha256), levels)


def _level(
    row: NDArray[Any], length: int, meta: TokensMeta, min_count: int, share: float, parts: int
) -> Level:
    found = []
    for part in range(parts):
        blocks = []
        for contexts, tokens in _contexts(row, length, meta):
            here = (contexts * _MIX >> np.uint64(32)) % np.uint64(parts) == part
            blocks.append((contexts[here], tokens[here]))
        if blocks:
            contexts, tokens = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
            found.append(_likeliest(contexts, tokens, meta.vocab_size, min_count, share))
    if not found:
        return Level(np.zeros(0, np.uint64), np.zeros(0, np.uint32))
    contexts, tokens = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    ascending = np.argsort(contexts)
    return Level(contexts[ascending], tokens[ascending])


def _contexts(row: NDArray[Any], length: int, meta: TokensMeta) -> Iterator[tuple[Keys, NDArray[Any]]]:
    """The contexts of a length, as numbers, and the token after each, block by block."""
    for begin in range(0, len(row) - length, _BLOCK):
        block = row[begin : begin + _BLOCK + length]
        count = len(block) - length
        numbers, within = np.zeros(count, np.uint64), np.ones(count, bool)
        for index in range(length):
            ids = block[index : index + count]
            numbers = numbers * np.uint64(meta.vocab_size) + ids
            within &= ids != meta.eos_id
        yield numbers[within], block[length:][within]


def _likeliest(
    contexts: Keys, tokens: NDArray[Any], vocab_size: int, min_count: int, share: float
) -> tuple[Keys, NDArray[np.uint32]]:
    """Of each context that has one, the token that is kept."""
    different, place, count = np.unique(contexts, return_inverse=True, return_counts=True)
    often = count[place] >= min_count
    pairs, times = np.unique(place[often] * vocab_size + tokens[often], return_counts=True)
    context = pairs // vocab_size
    best_first = np.lexsort((-times, context))  # stable: the smallest token leads its equals
    _, first = np.unique(context[best_first], return_index=True)
    best = best_first[first]
    best = best[(times[best] >= min_count) & (times[best] >= share * count[context[best]])]
    return different[context[best]], (pairs[best] % vocab_size).astype(np.uint32)
