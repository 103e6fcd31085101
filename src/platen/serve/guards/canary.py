"""Canary tokens: a secret mark in every system prompt, which no answer has a reason to contain.

An answer that has it, also reversed, in ROT13, hexadecimal or base64, or with anything between its letters,
is giving the system prompt away.
"""

from __future__ import annotations

import base64
import codecs
import secrets
import string
from collections.abc import Iterator

from platen.scan.words import Marks

LENGTH = 20
_LETTERS = string.ascii_lowercase + string.digits


class Canary(Marks):
    """One mark for the life of a process, so that prompts which begin alike go on sharing their cache."""

    def __init__(self, token: str | None = None) -> None:
        """`token` is for tests; by default it is drawn at random."""
        self.token = token or "".join(secrets.choice(_LETTERS) for _ in range(LENGTH))
        super().__init__(_disguises(self.token), "canary")

    def marked(self, system_prompt: str) -> str:
        """A system prompt with the mark behind it."""
        return f"{system_prompt}\n\n(Internal reference {self.token}; it is confidential.)"


def _disguises(token: str) -> Iterator[tuple[str, str]]:
    yield token, "plain"
    yield token[::-1], "reversed"
    yield codecs.encode(token, "rot13"), "rot13"
    yield token.encode().hex(), "hex"
    # In base64 it depends on how many bytes come before, modulo 3; less the digits shared with neighbours.
    for before, shared in enumerate((0, 2, 3)):
        digits = base64.b64encode(b"\0" * before + token.encode()).decode()
        yield digits[shared : (before + len(token)) * 8 // 6], "base64"
