"""From documents to a file of vectors: streamed, each different text computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from platen.core.errors import DataError
from platen.core.progress import Progress
from platen.core.wording import counted
from platen.data.document import Document
from platen.data.intake import Intake
from platen.data.sourcefile import SourceFile
from platen.retrieve.cache import VectorCache, text_key
from platen.retrieve.embedders import Embedded, TextModel, UnreadableText
from platen.retrieve.vectorfile import VectorWriter

_TEXTS, _CHARACTERS = 512, 4_000_000
"""Of a batch, at most: what is held at once, and what a killed run loses."""


@dataclass
class Counts:
    """`cached` of the `texts` were known already; of `cut` ones only the beginning was read.

    Further ones were `there`: rows of the file that was added to.
    """

    texts: int = 0
    there: int = 0
    cached: int = 0
    cut: int = 0


class Corpus:
    """The documents of files, and how many of their `size` bytes are `read`; None where nobody knows."""

    def __init__(self, files: Sequence[SourceFile], intake: Intake) -> None:
        self._files, self._intake = files, intake
        sizes = [file.size() for file in files]
        self.size = sum(sizes) if all(sizes) else None
        self.read = 0

    def __iter__(self) -> Iterator[Document]:
        """Raises DataError, also when there was nothing that could be read."""
        for file in self._files:
            end = self.read + file.size()
            for document in self._intake.documents(file):
                # As far as can be told from texts: markup adds to a file, and compression takes away.
                self.read = min(self.read + len(document.text.encode()), end)
                yield document
            self.read = end
        self._intake.check()


def embed_corpus(
    corpus: Corpus,
    model: TextModel,
    writer: VectorWriter,
    progress: Progress,
    cache: VectorCache | None = None,
) -> Counts:
    """Write a row for each document that the file has none of. Raises DataError, ArtifactError; then nothing
    is written.
    """
    counts = Counts()
    try:
        with progress.task("embedding", total=corpus.size, unit="B") as task:
            for batch in _batches(corpus):
                new = [document for document in batch if document not in writer]
                counts.there += len(batch) - len(new)
                if new:
                    embedded, cached = _embed_documents(new, model, cache)
                    writer.write(new, embedded)
                    counts.texts += len(new)
                    counts.cached += cached
                    counts.cut += sum(embedded.cut)
                task.update(corpus.read, note=f"{counted(counts.texts, 'text')}, {counts.cached} known")
        writer.finish()
    except BaseException:
        writer.discard()
        raise
    return counts


def _embed_documents(
    batch: Sequence[Document], model: TextModel, cache: VectorCache | None
) -> tuple[Embedded, int]:
    try:
        return embed_texts([document.text for document in batch], model, cache)
    except UnreadableText as error:
        culprit = next(document for document in batch if document.text == error.text)
        raise DataError(
            f"{culprit.id}: {error.message}", hint="Take the text out of the source, or use another model."
        ) from None


def embed_texts(texts: list[str], model: TextModel, cache: VectorCache | None) -> tuple[Embedded, int]:
    """The texts' vectors in their order, and of how many texts they were in the cache."""
    keys = [text_key(model.stamp, text) for text in texts]
    known = cache.get(list(dict.fromkeys(keys)), model.stamp.dimensions) if cache else {}
    cached = sum(key in known for key in keys)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        made = model.embed(list(missing.values()))
        new = dict(zip(missing, zip(made.vectors, made.cut, strict=True), strict=True))
        if cache is not None:
            cache.put(new)
        known |= new
    return Embedded(np.stack([known[key][0] for key in keys]), [known[key][1] for key in keys]), cached


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if len(batch) == _TEXTS or size > _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
