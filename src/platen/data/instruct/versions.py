"""What a version of an instruction set is, and what changed between two of them.

A version is named by its contents: two runs that make the same examples make the same version. An example
keeps its id while its prompt stays, so a corrected answer is a change and not one example gone and another
new.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platen.data.instruct.instruction_set import InstructionSet
from platen.data.instruct.messages import Example


@dataclass(frozen=True)
class Change:
    """An example whose answer, acts or split is another one."""

    id: str
    prompt: str
    what: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """From one version to another: ids added and removed, what changed, and the users' acts before and
    after.
    """

    before: str
    after: str
    same: int
    added: tuple[Example, ...]
    removed: tuple[Example, ...]
    changed: tuple[Change, ...]
    acts: Mapping[str, tuple[int, int]]

    def summary(self) -> str:
        return (
            f"{self.before} → {self.after}: {len(self.added)} added, {len(self.removed)} removed, "
            f"{len(self.changed)} changed, {self.same} same"
        )


@dataclass(frozen=True)
class _Placed:
    split: str
    example: Example


def version_of(splits: Mapping[str, list[Example]]) -> str:
    """The version's name: 12 hex digits, the same whatever order the examples are in."""
    lines = sorted(f"{split} {example.line()}" for split, examples in splits.items() for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def difference(before: Path, after: Path) -> Difference:
    """Between two folders of instruction sets. Raises DataError for a folder that holds none."""
    old_splits, new_splits = InstructionSet(before).read(), InstructionSet(after).read()
    old, new = _by_id(old_splits), _by_id(new_splits)
    changes = [_change(old[id], new[id]) for id in old.keys() & new.keys()]
    changed = sorted((change for change in changes if change is not None), key=lambda change: change.id)
    counts = [_acts(splits) for splits in (old_splits, new_splits)]
    return Difference(
        before=version_of(old_splits),
        after=version_of(new_splits),
        same=len(changes) - len(changed),
        added=tuple(new[id].example for id in sorted(new.keys() - old.keys())),
        removed=tuple(old[id].example for id in sorted(old.keys() - new.keys())),
        changed=tuple(changed),
        acts={act: (counts[0][act], counts[1][act]) for act in sorted(counts[0].keys() | counts[1].keys())},
    )


def as_json(difference: Difference) -> str:
    """For programs."""
    return json.dumps(
        {
            "before": difference.before,
            "after": difference.after,
            "same": difference.same,
            "added": [json.loads(example.line()) for example in difference.added],
            "removed": [json.loads(example.line()) for example in difference.removed],
            "changed": [vars(change) for change in difference.changed],
            "acts": difference.acts,
        },
        indent=2,
        ensure_ascii=False,
    )


def _by_id(splits: Mapping[str, list[Example]]) -> dict[str, _Placed]:
    return {example.id: _Placed(split, example) for split, examples in splits.items() for example in examples}


def _change(old: _Placed, new: _Placed) -> Change | None:
    pairs = {
        "answer": (old.example.answer, new.example.answer),
        "acts": (" ".join(old.example.acts), " ".join(new.example.acts)),
        "split": (old.split, new.split),
    }
    what = tuple(name for name, (was, is_) in pairs.items() if was != is_)
    if not what:
        return None
    was, is_ = pairs[what[0]]
    return Change(new.example.id, new.example.prompt, what, was, is_)


def _acts(splits: Mapping[str, list[Example]]) -> Counter[str]:
    return Counter(
        act
        for examples in splits.values()
        for example in examples
        for message, act in zip(example.messages, example.acts, strict=False)
        if message.role == "user"
    )
