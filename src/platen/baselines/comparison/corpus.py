"""The text that all models of a comparison learn from and are scored on: read, cut in two, made tokens.

Of each file the last tenth, cut at a line end, is held out. All language models see the same byte-level BPE
tokens, learned on the training part, so none has unknown words and losses in bits per byte can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.data.config import DataConfig
from platen.data.readers.config import Source
from platen.data.sources import find_files, read_documents
from platen.tokens.config import TokenizerConfig
from platen.tokens.learn import learn_tokenizer
from platen.tokens.tokenizer import Tokenizer

HELD_OUT = 0.1
_LEAST_CHARACTERS = 5_000
_PASSAGE_CHARACTERS = 400


@dataclass(frozen=True)
class Part:
    """One file of a corpus, in two."""

    name: str
    train: str
    held_out: str


@dataclass(frozen=True)
class Corpus:
    """Token ids of the training and of the held-out text. The first held-out token is given to the models;
    `scored_bytes` are the UTF-8 bytes of the others."""

    parts: tuple[Part, ...]
    tokenizer: Tokenizer
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    scored_bytes: int

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size


@dataclass(frozen=True)
class Passages:
    """Pieces of text with the file that each is from, for training and held out."""

    train: tuple[tuple[str, str], ...]
    held_out: tuple[tuple[str, str], ...]


def read_corpus(paths: Sequence[str], *, vocab_size: int, max_bytes: int) -> Corpus:
    """Read files, folders or globs; of each file an even share of `max_bytes` from its start.

    Raises DataError for files that can't be read and for too little text.
    """
    config = DataConfig(sources=tuple(Source(path=path) for path in paths))
    files = find_files(Path.cwd(), config)
    share = max_bytes // len(files)
    parts = []
    for file in files:
        texts: list[str] = []
        size = 0
        for document in read_documents(file):
            texts.append(document.text[: share - size])
            size += len(texts[-1])
            if size >= share:
                break
        parts.append(_cut(file.name, "\n\n".join(texts)))
    train = "\n\n".join(part.train for part in parts)
    held_out = "\n\n".join(part.held_out for part in parts)
    if len(train) + len(held_out) < _LEAST_CHARACTERS:
        raise DataError(
            f"{len(train) + len(held_out):,} characters are too few to compare models on",
            hint=f"Give {_LEAST_CHARACTERS:,} or more.",
        )
    tokenizer = learn_tokenizer(
        [part.train for part in parts], TokenizerConfig(vocab_size=vocab_size), Path()
    )
    ids = np.array(tokenizer.encode(held_out, special=False))
    given = len(tokenizer.token_bytes(int(ids[0])))
    learned = np.array(tokenizer.encode(train, special=False))
    return Corpus(tuple(parts), tokenizer, learned, ids, len(held_out.encode()) - given)


def _cut(name: str, text: str) -> Part:
    at = int(len(text) * (1 - HELD_OUT))
    at = text.rfind("\n", 0, at) + 1 or at
    return Part(name, text[:at], text[at:])


def passages(corpus: Corpus, *, most: int = 1000) -> Passages:
    """Up to `most` passages a file and a tenth as many held out, of some lines each."""

    def of(texts: Sequence[tuple[str, str]], count: int) -> tuple[tuple[str, str], ...]:
        return tuple((piece, name) for name, text in texts for piece in _pieces(text)[:count])

    train = of([(part.name, part.train) for part in corpus.parts], most)
    return Passages(train, of([(part.name, part.held_out) for part in corpus.parts], max(1, most // 10)))


def _pieces(text: str) -> list[str]:
    """Whole lines, joined until they have about `_PASSAGE_CHARACTERS` characters."""
    pieces, piece = [], ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= _PASSAGE_CHARACTERS:
            pieces.append(piece.strip())
            piece = ""
    return [piece for piece in [*pieces, piece.strip()] if piece]
