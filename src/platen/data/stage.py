"""The stage `data`, declared: source files become clean and disjoint splits."""

from __future__ import annotations

from pathlib import Path

from platen.core.stage import Sources, StageSpec
from platen.data.config import DataConfig


def _sources(config: DataConfig, directory: Path) -> Sources:
    from platen.data.filters.files import filter_files
    from platen.data.sources import source_files

    return (*source_files(directory, config), *filter_files(config.filters, directory))


DATA = StageSpec(
    name="data",
    kind="data",
    config=DataConfig,
    run="platen.data.prepare:prepare",
    version=2,
    settings=lambda project: project.section("data", DataConfig),
    sources=_sources,
    extra="data",
)
