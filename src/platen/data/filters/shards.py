"""Documents on their way through the blocks: numbered files of JSON lines, one a task, so that any worker can
take any of them and the result does not depend on which does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
from datatrove.data import Document as Passing
from datatrove.pipeline.base import PipelineStep

from platen.data.filters.block import Block, BlockCounts
from platen.data.filters.duplicates import CorpusBlock
from platen.data.sources import Document

SHARD_CHARACTERS = 4_000_000
"""A file is full with so many."""


def write_shards(documents: Iterable[Document], folder: Path) -> int:
    """Write the documents into files of a new folder; return how many files there are."""
    folder.mkdir(parents=True)
    rank = -1
    out: BinaryIO | None = None
    room = 0
    try:
        for document in documents:
            if out is None or room <= 0:
                if out is not None:
                    out.close()
                rank += 1
                room = SHARD_CHARACTERS
                out = shard(folder, rank).open("wb")
            out.write(orjson.dumps(asdict(document) | {"language": None}, option=orjson.OPT_APPEND_NEWLINE))
            room -= len(document.text)
    finally:
        if out is not None:
            out.close()
    return rank + 1


def read_shard(folder: Path, rank: int) -> Iterator[dict[str, Any]]:
    """The records of a file, without those that a corpus block has removed since."""
    kept = _keep_file(folder, rank)
    keep = np.load(kept) if kept.exists() else None
    with shard(folder, rank).open("rb") as lines:
        for number, line in enumerate(lines):
            if keep is None or keep[number]:
                yield orjson.loads(line)


def shard(folder: Path, rank: int) -> Path:
    """The file of a task."""
    return folder / f"{rank:05d}.jsonl"


def lengths(folder: Path, rank: int) -> npt.NDArray[np.int64]:
    """Characters of each document in a file that `ShardWriter` wrote."""
    return np.fromfile(folder / f"{rank:05d}.lengths", np.int64)


def sketches_file(folder: Path, number: int, rank: int) -> Path:
    """The sketches that the corpus block of this number has of a file's documents."""
    return folder / f"{rank:05d}.sketch{number}"


def write_keep(folder: Path, rank: int, keep: npt.NDArray[np.bool_]) -> None:
    """Say which documents of a file are still there."""
    np.save(_keep_file(folder, rank), keep)


def _keep_file(folder: Path, rank: int) -> Path:
    return folder / f"{rank:05d}.keep.npy"


class ShardReader(PipelineStep):  # type: ignore[misc]
    """Gives a task its documents; everything but the text travels in the metadata."""

    type, name = "platen", "read"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        """The documents of file `rank`."""
        for record in read_shard(self._folder, rank):
            yield Passing(text=record.pop("text"), id=record["id"], metadata=record)


class ShardWriter(PipelineStep):  # type: ignore[misc]
    """What passed, sketches for the corpus blocks behind it, and what the blocks before it counted."""

    type, name = "platen", "write"

    def __init__(self, folder: Path, blocks: Sequence[Block], corpus: Sequence[CorpusBlock]) -> None:
        super().__init__()
        self._folder, self._blocks, self._corpus = folder, blocks, corpus

    def run(self, data: Iterable[Passing], rank: int = 0, world_size: int = 1) -> Iterator[Passing]:
        """Write file `rank` and what belongs to it; nothing comes out."""
        for block in self._blocks:
            block.counts = BlockCounts(block.name)  # a worker may have had another task before
        seconds = [0.0] * len(self._corpus)
        sketches = [sketches_file(self._folder, n, rank).open("wb") for n in range(len(self._corpus))]
        sizes = []
        with shard(self._folder, rank).open("wb") as out:
            for document in data:
                out.write(
                    orjson.dumps(
                        document.metadata | {"text": document.text}, option=orjson.OPT_APPEND_NEWLINE
                    )
                )
                sizes.append(len(document.text))
                for number, (sketcher, file) in enumerate(zip(self._corpus, sketches, strict=True)):
                    began = time.perf_counter()
                    file.write(sketcher.sketch(document.text))
                    seconds[number] += time.perf_counter() - began
        for file in sketches:
            file.close()
        np.array(sizes, np.int64).tofile(self._folder / f"{rank:05d}.lengths")
        counts = {"blocks": [asdict(block.counts) for block in self._blocks], "seconds": seconds}
        (self._folder / f"{rank:05d}.counts").write_text(json.dumps(counts))
        yield from ()


def read_counts(folder: Path, rank: int) -> tuple[list[BlockCounts], list[float]]:
    """What a task counted: its blocks, and the seconds that sketches took for each corpus block."""
    counts = json.loads((folder / f"{rank:05d}.counts").read_text())
    return [BlockCounts.from_json(block) for block in counts["blocks"]], counts["seconds"]
