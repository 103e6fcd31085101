"""Assigns whole documents to train, validation and test, so that no text is in two of them.

By fraction: documents in the order of their ids' hashes, so adding some moves few others and the same corpus
always splits alike. By name: exactly the documents that the project file lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from platen.errors import DataError
from platen.project import SplitConfig

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Item:
    """One document to place. `digest` identifies its text: equal texts are placed together."""

    id: str
    characters: int
    digest: str


def assign(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
    """Document id → split.

    Raises DataError when train, validation or a wanted test split would be empty, a listed name is unknown
    or means several documents, or equal texts would be in two splits.
    """
    chosen: dict[str, SplitName] = {}
    wanted: tuple[tuple[SplitName, float | tuple[str, ...]], ...] = (
        ("validation", config.validation),
        ("test", config.test),
    )
    for split, choice in wanted:  # names first: a fraction draws from what they leave
        if isinstance(choice, tuple):
            for name in choice:
                document = _find(name, items, split)
                if chosen.setdefault(document, split) != split:
                    raise DataError(
                        f"document {name} is listed for validation and for test",
                        hint="List it under one of data.split.validation and data.split.test.",
                    )
    total = sum(item.characters for item in items)
    for split, choice in wanted:
        if not isinstance(choice, tuple) and choice > 0:
            free = [item for item in items if item.id not in chosen]
            chosen |= dict.fromkeys(_draw(free, choice * total), split)
    result: dict[str, SplitName] = {item.id: chosen.get(item.id, "train") for item in items}
    _check(items, result, ("train", "validation", "test") if config.test else ("train", "validation"))
    return result


def _draw(items: Sequence[Item], characters: float) -> list[str]:
    """Ids of documents that hold about `characters`: each, in hash order, if it brings the sum nearer."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.digest, []).append(item)
    order = sorted(groups.values(), key=lambda group: hashlib.sha256(group[0].id.encode()).digest())
    drawn: list[Item] = []
    missing = characters
    for group in order:
        size = sum(item.characters for item in group)
        if size < 2 * missing:
            drawn += group
            missing -= size
    if not drawn and len(order) > 1:  # the last one stays for training
        drawn = min(order, key=lambda group: sum(item.characters for item in group))
    return [item.id for item in drawn]


def _find(name: str, items: Sequence[Item], split: str) -> str:
    """The id that a listed name means: the whole id, its last part, or that without its suffix."""
    for key in (str, lambda id: PurePosixPath(id).name, lambda id: PurePosixPath(id).stem):
        matches = [item.id for item in items if key(item.id) == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DataError(
                f"data.split.{split}: {name} means {len(matches)} documents: {', '.join(matches[:4])}",
                hint="Write the whole path of the one you mean.",
            )
    known = ", ".join(item.id for item in items[:8])
    raise DataError(
        f"data.split.{split}: no document {name} is left after cleaning",
        hint=f"Documents are named by their path; there are {known}{', …' if len(items) > 8 else ''}.",
    )


def _check(items: Sequence[Item], result: dict[str, SplitName], wanted: Sequence[SplitName]) -> None:
    for split in wanted:
        if split not in result.values():
            raise DataError(
                f"the {split} split has no document: {len(items)} in the corpus, and documents are never cut",
                hint="Give more documents (cut a long file at its natural boundaries), or set data.split.",
            )
    place: dict[str, Item] = {}
    for item in items:
        other = place.setdefault(item.digest, item)
        if result[other.id] != result[item.id]:
            raise DataError(
                f"{other.id} and {item.id} have the same text but are in two splits, "
                f"{result[other.id]} and {result[item.id]}",
                hint="Remove one, or leave data.clean.deduplicate on.",
            )
