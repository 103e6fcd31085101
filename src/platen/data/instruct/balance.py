"""How an instruction set is balanced: which speech acts its users and its answers perform, and which are
missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from platen.data.instruct.acts import ACTS
from platen.data.instruct.messages import Example


@dataclass(frozen=True)
class Balance:
    """Messages by act, in the acts' own order; `gaps` are the acts that are rare among the users'."""

    user: Mapping[str, int]
    assistant: Mapping[str, int]
    gaps: tuple[str, ...]
    summary: str
    """Such as `no verdictives, 2% commissives`."""


def balance_of(examples: Iterable[Example], min_share: float) -> Balance | None:
    """The balance of tagged examples; None when none is tagged.

    A gap is an act with less than `min_share` of the users' messages.
    """
    counts: dict[str, Counter[str]] = {"user": Counter(), "assistant": Counter()}
    for example in examples:
        for message, act in zip(example.messages, example.acts, strict=False):
            if message.role in counts:
                counts[message.role][act] += 1
    user, total = counts["user"], counts["user"].total()
    if not total:
        return None
    gaps = tuple(act for act in ACTS if user[act] == 0 or user[act] / total < min_share)
    return Balance(
        user={act: user[act] for act in ACTS},
        assistant={act: counts["assistant"][act] for act in ACTS},
        gaps=gaps,
        summary=_summary(gaps, user, total),
    )


def _summary(gaps: tuple[str, ...], user: Mapping[str, int], total: int) -> str:
    missing = [f"no {act}s" for act in gaps if not user[act]]
    rare = [f"{percent(user[act] / total)} {act}s" for act in gaps if user[act]]
    return ", ".join(missing + rare) or "every act is there"


def percent(share: float) -> str:
    """A share in words: 2%, 0.4%, and under that <0.1%."""
    if share >= 0.01:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
