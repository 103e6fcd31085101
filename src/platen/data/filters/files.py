"""Which files the blocks of `data.filters` read beside the documents: a change makes the stage stale."""

from __future__ import annotations

from pathlib import Path

from platen.core.errors import DataError
from platen.data.config import DataConfig
from platen.data.filters.config import FiltersConfig, PerplexityBlock
from platen.data.readers.config import Source
from platen.data.sourcefile import SourceFile
from platen.data.sources import find_files
from platen.data.whole_files import watched


def filter_files(config: FiltersConfig | None, directory: Path) -> tuple[Path | str, ...]:
    """Files as Path, others as URL, of folders all files.

    What is not there is the block's to complain of. Raises DataError for a reference that matches nothing.
    """
    found: list[Path | str] = []
    for block in config.blocks if config else ():
        for path in (directory / name for name in block.reads()):
            inside = path.rglob("*") if path.is_dir() else (path,)
            found += sorted(file for file in inside if file.is_file())
        if isinstance(block, PerplexityBlock) and block.reference is not None:
            for file in reference_files(directory, block.reference):
                found += watched(file)
    return tuple(found)


def reference_files(directory: Path, source: Source) -> tuple[SourceFile, ...]:
    """The files of a perplexity block's reference. Raises DataError when there are none."""
    try:
        return find_files(directory, DataConfig(sources=(source,)))
    except DataError as error:
        raise DataError(f"the reference of a perplexity block: {error.message}", hint=error.hint) from None
