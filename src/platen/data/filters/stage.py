"""The blocks as part of the stage `data`: between reading and splitting, and a check after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platen.core.errors import DataError
from platen.core.kinds.data_splits import DataSplits, SplitName
from platen.core.stage import StageContext
from platen.data.config import DataConfig
from platen.data.filters.config import ContaminationBlock, FiltersConfig
from platen.data.filters.contamination import build_index, touches
from platen.data.filters.filter_report import write_report
from platen.data.filters.profile import Profile
from platen.data.filters.run_blocks import Filters
from platen.data.sources import Document

if TYPE_CHECKING:
    from platen.data.prepare import Dropped


def filtered(
    ctx: StageContext[DataConfig],
    config: FiltersConfig,
    documents: Iterable[Document],
    dropped: dict[str, Dropped],
    counts: list[dict[str, Any]],
) -> Iterator[Document]:
    """The documents that pass the blocks. At the end writes the report into the artifact.

    What each block counted goes into `counts`, what it dropped into `dropped`. Raises ConfigError, DataError.
    """
    from platen.data.prepare import Dropped

    before, after = Profile(), Profile(probes=True)
    filters = Filters(config, ctx.project_dir, ctx.out / "filters.tmp", ctx.seed, ctx.progress)
    with ctx.progress.task("filtering documents", unit="documents") as task:
        for done, passed in enumerate(filters.run(before.watch(documents)), start=1):
            after.add(passed.document, passed.language)
            task.update(done)
            yield passed.document
    for block in filters.counts:
        counts.append({key: value for key, value in asdict(block).items() if key != "names"})
        if block.removed:
            lost = dropped.setdefault(block.name, Dropped())
            lost.add_all(block.removed, block.characters_removed, block.names)
    write_report(DataSplits(ctx.out).page, filters.counts, before, after)


def touching_held_out(spool: Path, place: Mapping[str, SplitName], config: FiltersConfig) -> set[str]:
    """Ids of training documents that share an n-gram with validation or test, where a block asks for that.

    Raises DataError when no training document would be left.
    """
    blocks = [
        block for block in config.blocks if isinstance(block, ContaminationBlock) and block.across_splits
    ]
    if not blocks:
        return set()
    n = min(block.ngram for block in blocks)
    held_out = build_index((text for id, text in _spooled(spool) if place[id] != "train"), n)
    # Only whole n-grams: a short held-out document is no passage that training must not have.
    index = {length: known for length, known in held_out.items() if length == n}
    touching = {id for id, text in _spooled(spool) if place[id] == "train" and touches(text, index)}
    if len(touching) == sum(split == "train" for split in place.values()):
        raise DataError(
            f"every training document shares {n} words in a row with validation or test",
            hint="Take boilerplate out of the documents, or set across_splits: false.",
        )
    return touching


def _spooled(spool: Path) -> Iterator[tuple[str, str]]:
    with spool.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield record["id"], record["text"]
