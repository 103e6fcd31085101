"""The rules give what datatrove's own filters give, on real text, with words parted alike."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from benchmarks._words import Blanks
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from platen.data.filters.block import Block, Removed
from platen.data.filters.c4 import C4
from platen.data.filters.config import C4Block, FineWebBlock, GopherQualityBlock, GopherRepetitionBlock
from platen.data.filters.fineweb import FineWeb
from platen.data.filters.gopher import GopherQuality, GopherRepetition


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Pieces of the standard library, with and without line ends, and some said twice."""
    library = Path(sysconfig.get_paths()["stdlib"])
    whole = [path.read_text(encoding="utf-8") for path in sorted(library.glob("[a-f]*.py"))]
    parts = [text[at : at + 4_000] for text in whole for at in range(0, len(text), 4_000)]
    prose = [" ".join(line.strip() for line in part.splitlines() if ":" not in line) for part in parts]
    return [*parts, *prose, *(part[:600] + "\n" + part[:600] for part in parts[:50])]


PAIRS: list[tuple[Block, BaseFilter]] = [
    (GopherQuality(GopherQualityBlock(block="gopher_quality")), GopherQualityFilter(language=Blanks())),
    (
        GopherRepetition(GopherRepetitionBlock(block="gopher_repetition")),
        GopherRepetitionFilter(language=Blanks()),
    ),
    (FineWeb(FineWebBlock(block="fineweb")), FineWebQualityFilter(language=Blanks())),
    (
        C4(C4Block(block="c4", min_sentences=0, curly_brackets=False)),
        C4QualityFilter(min_num_sentences=-1, filter_curly_bracket=False),
    ),
]


@pytest.mark.parametrize(("ours", "peer"), PAIRS, ids=lambda side: type(side).__name__)
def test_the_same_documents_stay(ours: Block, peer: BaseFilter, texts: list[str]) -> None:
    decided = set()
    for text in texts:
        document = Document(text, "a")
        result, theirs = ours.apply(Document(text, "a")), peer.filter(document)
        kept = theirs is True
        assert isinstance(result, Removed) is not kept, text
        if kept and isinstance(ours, C4):
            assert result == document.text
        decided.add(kept)
    assert decided == ({True} if isinstance(ours, C4) else {True, False})
