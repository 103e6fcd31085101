"""Secrets and personal data: found in their notations, masked whole, the same in any pieces."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.scan.screen import Screen, screened
from platen.scan.secret_rules import LONGEST_NUMBER, LONGEST_WORD
from platen.scan.secrets import Secrets
from platen.serve.guards.config import SecretsGuard
from tests.serve.guards.pieces import (
    JWT,
    PRIVATE_KEY,
    SECRETS,
    cut,
    masked,
    streamed,
    texts,
    until_blocked,
)

ALL = Secrets(SecretsGuard().kinds)
CUTS = st.lists(st.integers(0, 10_000), max_size=60)


def mask(text: str) -> str:
    return screened(ALL, masked, text)


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items())
def test_each_notation_is_found(secret: str, kind: str) -> None:
    assert mask(f"It is {secret}, or so.") == f"It is [{kind}], or so."
    assert mask(secret) == f"[{kind}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111 1111 1111 1111 123", "[card] 123"),
        ("ＤＥ８９３７０４００４４０５３２０１３０００", "[iban]"),
        ("٤١١١١١١١١١١١١١١١", "[card]"),
        ("Password = 'correct1horse'", "Password = '[password]'"),
        ("postgres://app:s3cr3t!@db:5432/x", "postgres://app:[password]@db:5432/x"),
        ("api_key:abcd1234efgh", "api_key:[password]"),
        ("ring 00 44 20 7946 0958 now", "ring [phone] now"),
        ("a@example.com,b@example.com", "[email],[email]"),
        (f"{PRIVATE_KEY}\nand on", "[private_key]\nand on"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB never ends", "[private_key]"),
    ],
)
def test_more_notations(text: str, expected: str) -> None:
    assert mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "DE89 3704 0044 0532 0130 01",
        "order 12345678901234567890123",  # longer than any card
        "at 12:34:56 on 2024-05-06",
        "127.0.0.1 and ::1 are this machine",
        "version 1.2.3, section 300.1.1",
        "std::vector<int>::iterator",
        "the password: required field",
        "me@localhost, @handle, x@y",
        "sk-short and AKIA-like words",
        "pi is 3.14159265358979323846",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14",
        "The risk-averse task-force met.",
    ],
)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert mask(text) == text


def test_only_the_kinds_asked_for() -> None:
    assert screened(Secrets(["email"]), masked, "a@b.example 10.2.3.4") == "[email] 10.2.3.4"


@settings(max_examples=200)
@given(texts(list(SECRETS)), CUTS)
def test_pieces_give_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    assert streamed(ALL, cut(text, cuts)) == mask(text)
    assert until_blocked(ALL, cut(text, cuts)) == until_blocked(ALL, [text])


@given(st.sampled_from(list(SECRETS)), CUTS)
def test_masks_never_leak(secret: str, cuts: list[int]) -> None:
    text = f"before {secret} after"
    given_on = streamed(ALL, cut(text, cuts))
    assert secret not in given_on
    assert given_on == f"before [{SECRETS[secret]}] after"


@pytest.mark.parametrize("size", [1, 7, 400, 100_000])
def test_a_token_without_end_is_masked_without_being_held(size: int) -> None:
    text = f"x {JWT}{'A' * 5_000} y {PRIVATE_KEY[:60]}{'B' * 50_000}"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert streamed(ALL, pieces) == "x [jwt] y [private_key]"


def test_little_is_held_back() -> None:
    """Of prose a word and its blank at most; of anything, what the longest pattern spans."""
    screen, held, given_on = Screen(ALL, masked), 0, 0
    prose = "It was the best of times, it was the worst of times, in 1775 and after. " * 5
    for number, letter in enumerate(prose, 1):
        given_on += len(screen.push(letter))
        held = max(held, number - given_on)
    assert held <= len("times, ")
    for filler in ("a", "1 ", "A", "=", "-----BEGIN "):
        screen = Screen(ALL, masked)
        given_on = sum(len(screen.push(filler)) for _ in range(2_000))
        assert 2_000 * len(filler) - given_on <= max(LONGEST_WORD, LONGEST_NUMBER)


@pytest.mark.parametrize(
    "unit",
    ["a", "a@", "1", "1 ", "DE89 ", ":", "1:", "+1", "password=", "eyJ", "eyJaaaaaaaaaaa.", "-----BEGIN ",
     "a.", "a://b:", "(222) ", "1.", "sk-", "4111 1111 1111 1111 ", "+1 .1 .1", "a@b.co "],
)  # fmt: skip
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.perf_counter()
    mask(text)
    assert time.perf_counter() - began < 5
