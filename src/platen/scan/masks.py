"""What stands in the place of something that was found: its kind, its kind with a keyed hash, or nothing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from platen.scan.config import GuardMask
from platen.scan.screen import Match

Mask = Callable[[Match, str], str]


def masking(mask: GuardMask, key: bytes) -> Mask:
    """The mask of that name. With `hash`, equal things have equal marks under one key, which hides them."""

    def hashed(match: Match, text: str) -> str:
        known = text[: match.known - match.start]
        digest = hmac.new(key, known.encode(), hashlib.sha256).hexdigest()
        return f"[{match.rule.upper()}:{digest[:8]}]"

    masks: dict[GuardMask, Mask] = {
        "label": lambda match, text: f"[{match.rule.upper()}]",
        "hash": hashed,
        "drop": lambda match, text: "",
    }
    return masks[mask]
