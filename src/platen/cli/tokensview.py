"""What `platen tokens` prints: counts like `wc`, and the table of an audit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from platen.core.wording import counted

if TYPE_CHECKING:
    from platen.tokens.audit import Audit
    from platen.tokens.count import Count


def show_counts(counts: Iterable[Count], as_json: bool) -> None:
    """A line a text, or JSON."""
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(count) for count in counts], indent=2))
        return
    for count in counts:
        per_token = f"{count.bytes / count.tokens:.2f}" if count.tokens else "–"
        typer.echo(
            f"{count.tokens:>12,}  {count.name}  "
            f"({counted(count.characters, 'character')}, {per_token} bytes a token)"
        )


def show_audit(audit: Audit) -> None:
    """A row a language, a column a tokenizer; then the characters that are lost."""
    from rich.console import Console
    from rich.table import Table

    from platen.tokens.audit import unknown_share

    console = Console(highlight=False)
    table = Table("language", box=None, pad_edge=False)
    for heading in ("characters", "bytes", *audit.vocabularies):
        table.add_column(heading, justify="right")
    first = next(iter(audit.vocabularies))
    for cost in (cost for cost in audit.costs if cost.tokenizer == first):
        cells = []
        for name in audit.vocabularies:
            one = audit.cost(name, cost.language)
            fertility = f"{one.tokens_per_word:.2f}/word" if one.tokens_per_word else ""
            cost_of = f"{one.tokens}  {one.tokens_per_byte:.2f}/byte  {fertility:>9} {unknown_share(one)}"
            cells.append(cost_of.rstrip())
        table.add_row(cost.language, str(cost.size.characters), str(cost.size.bytes), *cells)
    console.print(table)
    for name in audit.vocabularies:
        trips = [trip for trip in audit.planes if trip.tokenizer == name]
        lost = [trip for trip in trips if trip.returned < trip.points]
        if trips and not lost:
            console.print(f"{name}: every character of Unicode comes back")
        for trip in lost:
            console.print(
                f"{name}: plane {trip.plane}: {trip.points - trip.returned:,} of {trip.points:,} characters "
                f"are lost, the first {trip.first_lost}"
            )
