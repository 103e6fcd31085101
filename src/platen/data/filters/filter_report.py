"""`data_report.html`: what the blocks did, as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platen.core.pages import render_page
from platen.data.filters.bias import MOSTLY_MEN, MOSTLY_WOMEN, BiasProbe
from platen.data.filters.block import BlockCounts
from platen.data.filters.profile import Profile

_DUPLICATES = ("exact_duplicates", "near_duplicates")


@dataclass(frozen=True)
class Bar:
    """One bar of a drawing: `share` of the longest one's length, and beside it what it stands for."""

    label: str
    share: float
    value: str
    second: float = 0.0


@dataclass(frozen=True)
class Occupation:
    """How often an occupation was named, and beside words for women and for men."""

    name: str
    named: int
    women: int
    men: int

    @property
    def share(self) -> float:
        """Of women among both."""
        return self.women / (self.women + self.men)


def write_report(file: Path, counts: Sequence[BlockCounts], before: Profile, after: Profile) -> None:
    """Write the page. `before` and `after` are of the documents that went in and came out."""
    bias = after.bias or BiasProbe()
    html = render_page(
        "platen.data.filters",
        "report.html.j2",
        before=before,
        after=after,
        blocks=counts,
        funnel=_funnel(counts, before),
        lengths=_lengths(before, after),
        languages=_languages(counts, after),
        perplexities=_perplexities(counts),
        cost=_cost(counts, after),
        duplicates=[block for block in counts if block.name in _DUPLICATES],
        mostly_women=_occupations(bias, MOSTLY_WOMEN),
        mostly_men=_occupations(bias, MOSTLY_MEN),
        anomalies={
            what: [(f"{value:,.3g}" if isinstance(value, float) else f"{value:,}", id) for value, id in worst]
            for what, found in after.anomalies.items()
            if (worst := [entry for entry in sorted(found, reverse=True) if entry[0]])
        },
    )
    file.write_text(html, encoding="utf-8")


def _funnel(counts: Sequence[BlockCounts], before: Profile) -> list[Bar]:
    most = max(before.documents, 1)
    bars = [Bar("read", before.documents / most, f"{before.documents:,}")]
    for block in counts:
        left = block.seen - block.removed
        lost = f" (−{block.removed:,})" if block.removed else ""
        bars.append(Bar(block.name, left / most, f"{left:,}{lost}"))
    return bars


def _lengths(before: Profile, after: Profile) -> list[Bar]:
    sizes = sorted({*before.lengths, *after.lengths})
    most = max([*before.lengths.values(), *after.lengths.values(), 1])
    return (
        [
            Bar(
                f"{2 ** (size - 1) if size else 0:,}–{2**size - 1:,}",
                before.lengths[size] / most,
                f"{before.lengths[size]:,} → {after.lengths[size]:,}",
                after.lengths[size] / most,
            )
            for size in range(sizes[0], sizes[-1] + 1)
        ]
        if sizes
        else []
    )


def _languages(counts: Sequence[BlockCounts], after: Profile) -> list[Bar]:
    found = next((block.found for block in counts if block.name == "language"), {})
    common = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:20]
    most = max([*found.values(), 1])
    return [
        Bar(code, seen / most, f"{seen:,} → {after.languages[code]:,}", after.languages[code] / most)
        for code, seen in common
    ]


def _perplexities(counts: Sequence[BlockCounts]) -> list[Bar]:
    """Documents between powers of two, in their order, of the first block that measured them."""
    found = next((block.found for block in counts if block.name == "perplexity"), {})
    most = max([*found.values(), 1])
    ordered = sorted(found.items(), key=lambda entry: int(entry[0].partition("–")[0].replace(",", "")))
    return [Bar(between, seen / most, f"{seen:,}") for between, seen in ordered]


def _cost(counts: Sequence[BlockCounts], after: Profile) -> list[Bar]:
    rows = [(block.name, block.seconds, block.characters_in) for block in counts]
    rows.append(("this report", after.seconds, after.characters))
    most = max([seconds for _, seconds, _ in rows] or [0]) or 1.0
    return [
        Bar(
            name,
            seconds / most,
            f"{seconds:.2f} s · {characters / max(seconds, 1e-9) / 1e6:.1f} M/s",
        )
        for name, seconds, characters in rows
    ]


def _occupations(bias: BiasProbe, names: Sequence[str]) -> list[Occupation]:
    """Those that stood beside words for women or men, the most frequent first."""
    all_ = [
        Occupation(name, *(bias.counts[name, what] for what in ("named", "women", "men"))) for name in names
    ]
    return sorted(
        (row for row in all_ if row.women + row.men), key=lambda row: (-row.women - row.men, row.name)
    )
