"""The n-gram model of a perplexity block's reference: counted once, and kept by what the reference says."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import DataError
from platen.core.files import replaced_folder
from platen.core.progress import Progress
from platen.data.clean import CleaningCounts, clean_text
from platen.data.config import CleanConfig
from platen.data.filters.config import BlockConfig, PerplexityBlock
from platen.data.filters.files import reference_files
from platen.data.readers.config import Source
from platen.data.sources import read_documents
from platen.models.classic.ngram import KneserNey
from platen.models.classic.words import sentences, words

REFERENCES = Path(".platen", "references")
ORDER, MIN_COUNT = 5, 2
"""As `platen baselines ngram` counts."""
HELD_OUT = 10
"""One document in so many is not counted but scored, where percentiles are asked for."""
FEWEST_HELD_OUT = 20
"""Documents that a percentile is taken of."""
MOST_CHARACTERS = 100_000_000
"""Counting holds some 60 bytes for each."""
READ = 1_000_000
"""Characters of a document that are scored."""


def perplexity(model: KneserNey, text: str) -> float | None:
    """A text's perplexity by word, None without a word."""
    found = [words(sentence) for sentence in sentences(text[:READ])]
    return model.text_perplexity(found) if found else None


def reference_model(directory: Path, source: Source, *, held_out: bool, progress: Progress) -> Path:
    """The folder of the reference's model under `.platen/references`; counts it when it is not there.

    With `held_out` it also has `held_out.npy`: perplexities of documents that were not counted. Raises
    DataError for a reference that can't be read, is too large, or has too few documents to hold some out.
    """
    texts = _texts(directory, source)
    folder = _folder(directory, texts, held_out=held_out)
    if folder.is_dir():
        return folder
    for left in folder.parent.glob(".*"):  # what killed runs left; only one run at a time works on a project
        shutil.rmtree(left)
    apart = {text for text in texts if _is_apart(text)} if held_out else set()
    if held_out and len(apart) < FEWEST_HELD_OUT:
        raise DataError(
            f"{source.path}: {len(apart)} of {len(texts)} documents are held out, too few for a percentile",
            hint=f"Give a reference of {FEWEST_HELD_OUT * HELD_OUT * 2} different documents or more, one a "
            "line in JSON lines for example, or max_perplexity.",
        )
    with progress.task(f"counting the n-grams of {source.path}"):
        counted = [
            [sys.intern(word) for word in words(sentence)]
            for text in texts
            if text not in apart
            for sentence in sentences(text)
        ]
        model = KneserNey.fit(counted, order=ORDER, min_count=MIN_COUNT)
        with replaced_folder(folder) as new:
            model.save(new)
            np.save(new / "held_out.npy", _scores(model, sorted(apart)), allow_pickle=False)
    return folder


def unused_references(directory: Path, blocks: Iterable[BlockConfig]) -> list[Path]:
    """The folders of models that none of the project's blocks would take, and what killed runs left.

    Reads the references, but for a project that never had one. Raises DataError for one that can't be read.
    """
    kept = directory / REFERENCES
    there = sorted(kept.iterdir()) if kept.is_dir() else []
    used = {
        _folder(directory, _texts(directory, block.reference), held_out=block.by_percentile)
        for block in (blocks if there else ())
        if isinstance(block, PerplexityBlock) and block.reference is not None
    }
    return [folder for folder in there if folder not in used]


def held_out_perplexities(folder: Path) -> NDArray[np.float64]:
    """The perplexities of the documents that `reference_model` did not count."""
    scores: NDArray[np.float64] = np.load(folder / "held_out.npy", allow_pickle=False)
    return scores


def _folder(directory: Path, texts: list[str], *, held_out: bool) -> Path:
    """Where the model of these texts is kept."""
    from xxhash import xxh3_128

    key = xxh3_128(repr((1, ORDER, MIN_COUNT, HELD_OUT if held_out else 0)).encode())
    for text in texts:
        key.update(len(text).to_bytes(8, "little"))
        key.update(text.encode("utf-8", "replace"))
    return directory / REFERENCES / key.hexdigest()


def _texts(directory: Path, source: Source) -> list[str]:
    texts: list[str] = []
    room = MOST_CHARACTERS
    for file in reference_files(directory, source):
        for document in read_documents(file):
            texts.append(clean_text(document.text, CleanConfig(), CleaningCounts()))
            room -= len(texts[-1])
            if room < 0:
                raise DataError(
                    f"{source.path} is a reference of more than {MOST_CHARACTERS:,} characters",
                    hint="A part of it does; so much is counted in memory.",
                )
    if not any(map(str.strip, texts)):
        raise DataError(f"{source.path} is a reference without a word", hint="Give clean text.")
    return texts


def _is_apart(text: str) -> bool:
    """By its content, so that equal documents are not on both sides."""
    from xxhash import xxh3_64_intdigest

    return bool(xxh3_64_intdigest(text.encode("utf-8", "replace")) % HELD_OUT == 0)


def _scores(model: KneserNey, texts: list[str]) -> NDArray[np.float64]:
    def found() -> Iterator[float]:
        for text in texts:
            score = perplexity(model, text)
            if score is not None:
                yield score

    return np.array(list(found()))
