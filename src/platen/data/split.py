"""Assigns whole documents to train, validation and test, so that no text is in two of them.

By document: shares of the characters, documents in the order of their ids' hashes, so adding some moves
few others and the same corpus always splits alike; or exactly the documents that the project file lists.
By hash and by group: each by the hash of its text or of its group's name alone, so adding some moves none.
By time: before and from dates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from platen.core.errors import DataError
from platen.core.kinds.data_splits import SPLITS, SplitName
from platen.data.config import SplitConfig


@dataclass(frozen=True)
class Item:
    """One document to place. `digest` identifies its text: equal texts are placed together, and so are
    documents of one `group`. `time` is when it was written.
    """

    id: str
    characters: int
    digest: str
    group: str = ""
    time: datetime | None = None


def item_of(
    id: str, characters: int, digest: str, *, source: str, metadata: Mapping[str, Any], config: SplitConfig
) -> Item:
    """A document as an item, with the group or time that `config` splits by.

    The key is one of the document's metadata, or `source`. Raises DataError for a document without it.
    """
    if config.by not in ("group", "time"):
        return Item(id, characters, digest)
    value = source if config.key == "source" else metadata.get(config.key or "")
    if value is None or isinstance(value, (dict, list)) or value == "":
        raise DataError(
            f"{id} has no {config.key} in its metadata, and data.split.by is {config.by}",
            hint="Correct data.split.key, or split by document or hash.",
        )
    if config.by == "group":
        return Item(id, characters, digest, group=str(value))
    return Item(id, characters, digest, time=_time(value, id))


def _time(value: object, id: str) -> datetime:
    """Seconds since 1970 (as number or digits) or an ISO date or time; without a zone it is UTC."""
    try:
        moment = datetime.fromtimestamp(float(str(value)), UTC)
    except (ValueError, OverflowError, OSError):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise DataError(
                f"{id}: {value!r} is no time",
                hint="data.split.key names a metadata key with seconds since 1970 or an ISO date.",
            ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def hash_place(key: str, validation: float, test: float) -> SplitName:
    """The split of a key by its hash alone; the shares are those of many keys.

    A share that grows takes keys from training and moves none between validation and test.
    """
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    if place < test:
        return "test"
    return "validation" if place >= 1 - validation else "train"


def assign(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
    """Document id → split.

    Raises DataError when train, validation or a wanted test split would be empty, a listed name is unknown
    or means several documents, or equal texts would be in two splits.
    """
    result = _RULES[config.by](items, config)
    _check(items, result, SPLITS if config.has_test else SPLITS[:2])
    return result


def _by_document(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
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
    return {item.id: chosen.get(item.id, "train") for item in items}


def _by_hash(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
    return {item.id: hash_place(item.digest, *_shares(config)) for item in items}


def _by_group(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
    """Groups that share a text are one; such a one goes by the first of its names."""
    joined = _Joined()
    for item in items:
        joined.join(f"group {item.group}", f"text {item.digest}")
    return {item.id: hash_place(joined.name(f"group {item.group}"), *_shares(config)) for item in items}


def _by_time(items: Sequence[Item], config: SplitConfig) -> dict[str, SplitName]:
    """Equal texts go by the earliest: a later copy of what training knows tests nothing."""
    earliest: dict[str, datetime] = {}
    for item in items:
        if item.time is not None:
            earliest[item.digest] = min(item.time, earliest.get(item.digest, item.time))

    begins: list[tuple[str | None, SplitName]] = [
        (config.test_from, "test"),
        (config.validation_from, "validation"),
    ]

    def place(moment: datetime) -> SplitName:
        return next((split for begin, split in begins if begin and moment >= _time(begin, split)), "train")

    return {item.id: place(earliest[item.digest]) for item in items}


_RULES: Mapping[str, Callable[[Sequence[Item], SplitConfig], dict[str, SplitName]]] = {
    "document": _by_document,
    "hash": _by_hash,
    "group": _by_group,
    "time": _by_time,
}


def _shares(config: SplitConfig) -> tuple[float, float]:
    """Validation and test as shares; the schema allows names only when splitting by document."""
    validation, test = config.validation, config.test
    return (0.0 if isinstance(validation, tuple) else validation, 0.0 if isinstance(test, tuple) else test)


class _Joined:
    """Which names belong together (union-find); the first in order stands for all of them."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def name(self, one: str) -> str:
        above = self._above.setdefault(one, one)
        while above != self._above[above]:
            self._above[one] = above = self._above[above]
        return above

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.name(one), self.name(other)))
        self._above[second] = first


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


def _check(items: Sequence[Item], result: dict[str, SplitName], wanted: Sequence[str]) -> None:
    for split in wanted:
        if split not in result.values():
            raise DataError(
                f"the {split} split has no document: {len(items)} in the corpus, and documents are never cut",
                hint="Give more documents (cut a long file at its natural boundaries), or set data.split. By "
                "hash or group the shares of few are rough: raise them.",
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
