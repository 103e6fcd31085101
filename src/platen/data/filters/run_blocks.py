"""Takes documents through the blocks of `data.filters`.

Blocks over single documents run one after another on each document; a block over the whole corpus ends such a
pass, and the next pass leaves out what it removed. Passes read and write files, so memory stays bounded.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from platen.core.progress import Progress, SilentProgress
from platen.data.filters.block import EXAMPLES, LISTED, Block, BlockCounts, Example
from platen.data.filters.c4 import C4
from platen.data.filters.config import (
    BlockConfig,
    C4Block,
    ContaminationBlock,
    EncodingBlock,
    ExactBlock,
    FiltersConfig,
    FineWebBlock,
    GopherQualityBlock,
    GopherRepetitionBlock,
    LanguageBlock,
    MarkupBlock,
    NearBlock,
    PerplexityBlock,
    PiiBlock,
    ToxicityBlock,
    UnicodeBlock,
)
from platen.data.filters.contamination import Contamination
from platen.data.filters.duplicates import CorpusBlock, ExactDuplicates, Originals, Sketches
from platen.data.filters.encoding import Encoding
from platen.data.filters.executors import run_tasks
from platen.data.filters.fineweb import FineWeb
from platen.data.filters.gopher import GopherQuality, GopherRepetition
from platen.data.filters.language import Language
from platen.data.filters.markup import Markup
from platen.data.filters.near import NearDuplicates
from platen.data.filters.perplexity import Perplexity
from platen.data.filters.pii import Pii, Redactor
from platen.data.filters.shards import (
    ShardReader,
    ShardWriter,
    lengths,
    read_counts,
    read_shard,
    shard,
    sketches_file,
    write_keep,
    write_shards,
)
from platen.data.filters.toxicity import Toxicity
from platen.data.filters.unicode import Unicode
from platen.data.sources import Document


@dataclass
class Pass:
    """Blocks over single documents, and the corpus blocks behind them."""

    blocks: list[Block] = field(default_factory=list)
    corpus: list[CorpusBlock] = field(default_factory=list)


@dataclass(frozen=True)
class Filtered:
    """A document that passed, and its language where a block found it."""

    document: Document
    language: str | None


class Filters:
    """One run of the blocks; `counts` has an entry for each, in order, when `run` is over."""

    def __init__(
        self,
        config: FiltersConfig,
        project_dir: Path,
        work: Path,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        """`work` is a folder that every worker must see. Raises ConfigError, DataError, BundleError."""
        progress = progress or SilentProgress()
        self._config, self._work = config, work
        self.counts: list[BlockCounts] = []
        self._passes = [Pass()]
        redactor = next(
            (Redactor(block, project_dir) for block in config.blocks if isinstance(block, PiiBlock)), None
        )
        self._show = redactor or str
        for number, settings in enumerate(config.blocks):
            last = self._passes[-1]
            made = _corpus_block(settings)
            if made is not None:
                last.corpus.append(made)
                continue
            if last.corpus:
                self._passes.append(last := Pass())
            block = _block(settings, project_dir, work / f"index{number}", seed, progress)
            block.show = self._show
            last.blocks.append(block)

    def run(self, documents: Iterable[Document]) -> Iterator[Filtered]:
        """The documents that pass, in their order. Raises DataError when a worker fails."""
        folder = self._work / "read"
        tasks = write_shards(documents, folder)
        for number, part in enumerate(self._passes if tasks else ()):
            out = self._work / f"pass{number}"
            out.mkdir()
            steps = [ShardReader(folder), *part.blocks, ShardWriter(out, part.blocks, part.corpus)]
            config = self._config
            run_tasks(steps, tasks, self._work / f"logs{number}", config.executor, config.workers)
            shutil.rmtree(folder)
            folder = out
            self._finish(part, folder, tasks)
        for rank in range(tasks):
            for record in read_shard(folder, rank):
                language = record.pop("language")
                yield Filtered(Document(**record), language)
        shutil.rmtree(self._work)

    def _finish(self, part: Pass, folder: Path, tasks: int) -> None:
        """Sum up the tasks' counts and let the corpus blocks decide."""
        totals = [BlockCounts(block.name) for block in part.blocks]
        seconds = [0.0] * len(part.corpus)
        for rank in range(tasks):
            counts, sketching = read_counts(folder, rank)
            for total, more in zip(totals, counts, strict=True):
                total.add(more)
            seconds = [a + b for a, b in zip(seconds, sketching, strict=True)]
        self.counts += totals
        if not part.corpus:
            return
        sizes = [lengths(folder, rank) for rank in range(tasks)]
        characters = np.concatenate(sizes)
        begins = np.concatenate(([0], np.cumsum([len(size) for size in sizes])))
        alive = np.ones(len(characters), np.bool_)
        for number, block in enumerate(part.corpus):
            count = BlockCounts(block.name, seconds=seconds[number])
            began = time.perf_counter()
            originals = block.decide(_gathered(folder, number, tasks, block), alive)
            count.seconds += time.perf_counter() - began
            removed = originals >= 0
            count.seen, count.removed = int(alive.sum()), int(removed.sum())
            count.characters_in = int(characters[alive].sum())
            count.characters_removed = int(characters[removed].sum())
            alive &= ~removed
            count.characters_out = int(characters[alive].sum())
            count.reasons = {"duplicate": count.removed} if count.removed else {}
            duplicates = np.flatnonzero(originals >= 0)[:LISTED]
            count.examples = self._duplicates(folder, originals, begins, duplicates[:EXAMPLES])
            count.names = [id for id, _ in _records(folder, begins, duplicates)]
            self.counts.append(count)
        for rank in range(tasks):
            write_keep(folder, rank, alive[begins[rank] : begins[rank + 1]])

    def _duplicates(
        self,
        folder: Path,
        originals: Originals,
        begins: npt.NDArray[np.int64],
        duplicates: npt.NDArray[np.int64],
    ) -> list[Example]:
        """Duplicates beside what they repeat."""
        examples = []
        for number in duplicates:
            # A document repeats an earlier one.
            (original, first), (id, second) = _records(folder, begins, np.array([originals[number], number]))
            shown = (self._show(first)[:160], self._show(second)[:160])
            examples.append(Example(id, shown[1], shown[0], reason=f"like {original}"))
        return examples


def _records(
    folder: Path, begins: npt.NDArray[np.int64], documents: npt.NDArray[np.int64]
) -> Iterator[tuple[str, str]]:
    """Ids and texts of the documents with these numbers, which ascend; `begins` has each file's first."""
    import orjson

    ranks = np.searchsorted(begins, documents, side="right") - 1
    for rank in np.unique(ranks).tolist():
        wanted = set((documents[ranks == rank] - begins[rank]).tolist())
        with shard(folder, rank).open("rb") as lines:
            for at, line in enumerate(lines):
                if at in wanted:
                    record = orjson.loads(line)
                    yield record["id"], record["text"]


def _gathered(folder: Path, number: int, tasks: int, block: CorpusBlock) -> Sketches:
    """All sketches of a corpus block, mapped from one file."""
    whole = folder / f"sketches{number}"
    with whole.open("wb") as out:
        for rank in range(tasks):
            part = sketches_file(folder, number, rank)
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
            part.unlink()
    if not whole.stat().st_size:
        return np.zeros(0, block.dtype)
    count = whole.stat().st_size // block.dtype.itemsize
    shape = (count, *block.dtype.shape)
    return np.memmap(whole, block.dtype.base, "r", shape=shape)


def _corpus_block(config: BlockConfig) -> CorpusBlock | None:
    if isinstance(config, ExactBlock):
        return ExactDuplicates()
    return NearDuplicates(config) if isinstance(config, NearBlock) else None


def _block(config: BlockConfig, project_dir: Path, index: Path, seed: int, progress: Progress) -> Block:
    match config:
        case EncodingBlock():
            return Encoding(config)
        case UnicodeBlock():
            return Unicode(config)
        case MarkupBlock():
            return Markup(config)
        case LanguageBlock():
            return Language(config)
        case GopherQualityBlock():
            return GopherQuality(config)
        case GopherRepetitionBlock():
            return GopherRepetition(config)
        case C4Block():
            return C4(config)
        case FineWebBlock():
            return FineWeb(config)
        case PerplexityBlock():
            return Perplexity(config, project_dir, progress)
        case ContaminationBlock():
            return Contamination(config, project_dir, index)
        case PiiBlock():
            return Pii(config, project_dir, seed)
        case ToxicityBlock():
            return Toxicity(config, project_dir)
    raise TypeError(config)
