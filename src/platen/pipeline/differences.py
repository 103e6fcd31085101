"""What changed from one configuration to another, told by the parts that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

_SHOWN = 40
"""Characters of a value."""
_BEFORE = 12
"""Of them, what is shown before the first one that differs."""


def changes(old: Any, new: Any) -> Iterator[str]:
    """`key.path: old → new` of each value that differs. Both are as read from JSON."""
    for path, before, after in _differences(old, new, ()):
        yield f"{'.'.join(path)}: {' → '.join(_sides(before, after))}"


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), (*path, str(key)))
    elif isinstance(old, list) and isinstance(new, list):
        for at, before, after in _pairs(old, new):
            sections = isinstance(before, dict) and isinstance(after, dict)
            if sections and before.keys() == after.keys():
                yield from _differences(before, after, (*path, str(at)))
            else:  # another kind of section, such as another block
                yield (*path, str(at)), before, after
    elif old != new:
        yield path, old, new


def _pairs(old: list[Any], new: list[Any]) -> Iterator[tuple[int, Any, Any]]:
    """Items that differ, with their place in the new list; None opposite one that is new or gone."""
    before, after = ([json.dumps(item, sort_keys=True) for item in items] for items in (old, new))
    for tag, i, i_end, j, j_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            for nth, (was, is_) in enumerate(zip_longest(old[i:i_end], new[j:j_end])):
                yield j + nth, was, is_


def _sides(*values: Any) -> tuple[str, ...]:
    """Both values as text, each cut to what differs and a little before it."""
    texts = ["unset" if value is None else str(value) for value in values]
    start = 0
    if max(map(len, texts)) > _SHOWN:
        same = next(
            (at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts))
        )
        start = max(same - _BEFORE, 0)
    return tuple(
        "…" * (start > 0) + text[start : start + _SHOWN] + "…" * (start + _SHOWN < len(text))
        for text in texts
    )
