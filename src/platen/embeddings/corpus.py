"""From documents to a file of vectors: streamed, each different text computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from platen.data.document import Document
from platen.embeddings.cache import VectorCache, text_key
from platen.embeddings.models import Embedded, TextModel
from platen.embeddings.vectorfile import VectorWriter
from platen.stages import Progress
from platen.wording import counted

_TEXTS, _CHARACTERS = 512, 4_000_000
"""Of a batch, at most: what is held at once, and what a killed run loses."""


@dataclass
class Counts:
    """`cached` of the `texts` were known already; of `cut` ones only the beginning was read."""

    texts: int = 0
    cached: int = 0
    cut: int = 0


def embed_corpus(
    documents: Iterable[Document],
    model: TextModel,
    writer: VectorWriter,
    progress: Progress,
    cache: VectorCache | None = None,
) -> Counts:
    """Write a row for each document. Raises DataError, ArtifactError; then nothing is written."""
    counts = Counts()
    try:
        with progress.task("embedding", unit="texts") as task:
            for batch in _batches(documents):
                embedded, cached = embed_texts([document.text for document in batch], model, cache)
                writer.write(batch, embedded)
                counts.texts += len(batch)
                counts.cached += cached
                counts.cut += sum(embedded.cut)
                task.update(counts.texts, note=f"{counted(counts.texts, 'text')}, {counts.cached} known")
        writer.finish()
    except BaseException:
        writer.discard()
        raise
    return counts


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
