"""A way to run blocks on texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from platen.data.filters.block import BlockCounts
from platen.data.filters.config import FiltersConfig
from platen.data.filters.run_blocks import Filters
from platen.data.sources import Document


@dataclass(frozen=True)
class Ran:
    """Texts by id as they came out, in order, and what the blocks counted."""

    texts: dict[str, str]
    counts: dict[str, BlockCounts]
    languages: dict[str, str | None]


RunBlocks = Callable[..., Ran]


@pytest.fixture
def run_blocks(tmp_path: Path) -> RunBlocks:
    """`run_blocks({"id": text}, {"block": …}, workers=…)`; files are relative to `tmp_path`."""
    runs = 0

    def run(texts: Mapping[str, str], *blocks: dict[str, Any], **settings: Any) -> Ran:
        nonlocal runs
        runs += 1
        config = FiltersConfig.model_validate({"blocks": list(blocks), **settings})
        filters = Filters(config, tmp_path, tmp_path / f"work{runs}", seed=1)
        passed = list(filters.run(Document(id, text, "a file") for id, text in texts.items()))
        return Ran(
            {one.document.id: one.document.text for one in passed},
            {count.name: count for count in filters.counts},
            {one.document.id: one.language for one in passed},
        )

    return run
