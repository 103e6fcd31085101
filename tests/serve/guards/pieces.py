"""Texts for the guards' property tests: made of what they look for, halves of it and what lies between."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from platen.scan.screen import Blocked, Match, Scanner, Screen

PRIVATE_KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIBAAJBAKj34G\nkxFhD90vcNLY\n-----END RSA PRIVATE KEY-----"
)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
SECRETS = {
    "alice.b+spam@mail.example.co.uk": "email",
    "+49 (0)30 1234-5678": "phone",
    "(415) 555-2671": "phone",
    "4111 1111 1111 1111": "card",
    "378282246310005": "card",
    "DE89 3704 0044 0532 0130 00": "iban",
    "GB82WEST12345698765432": "iban",
    "10.20.30.40": "ip",
    "2001:db8::8a2e:370:7334": "ip",
    "AKIAIOSFODNN7EXAMPLE": "key",
    "sk-proj-abcdefghijklmnop_qrstuvwxyz0123": "key",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345": "key",
    JWT: "jwt",
    PRIVATE_KEY: "private_key",
}
"""Secrets and what they are. The numbers are the published examples of their standards and vendors."""

BETWEEN = (
    " ",
    " ",
    ", ",
    "\n",
    ".",
    ":",
    " = ",
    "-",
    "the word ",
    "IN CAPS ",
    "2024 ",
    "é",
    "\u200b",
    "１２ ",
    "@",
    "password: ",
)


def texts(wanted: list[str]) -> st.SearchStrategy[str]:
    """Texts with some of `wanted`, some of their beginnings, and other things between them."""
    whole = st.sampled_from(wanted)
    begun = st.builds(lambda text, end: text[: end % len(text)], whole, st.integers(0, 1000))
    part = st.one_of(whole, begun, st.sampled_from(BETWEEN), st.text(max_size=6))
    return st.lists(part, max_size=9).map("".join)


def cut(text: str, cuts: list[int]) -> list[str]:
    """A text in pieces."""
    places = sorted({place % (len(text) + 1) for place in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def masked(match: Match, _: str) -> str:
    return f"[{match.rule}]"


def streamed(scanner: Scanner, pieces: list[str]) -> str:
    screen = Screen(scanner, masked)
    return "".join([screen.push(piece) for piece in pieces] + [screen.finish()])


def until_blocked(scanner: Scanner, pieces: list[str]) -> tuple[str, str | None]:
    """What is given on when the first match ends the text, and which rule did."""
    screen, given = Screen(scanner, lambda *_: None), ""
    try:
        for piece in pieces:
            given += screen.push(piece)
        return given + screen.finish(), None
    except Blocked as blocked:
        return given + blocked.before, blocked.match.rule
