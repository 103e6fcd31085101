"""Block lists and canaries: words however they are written, patterns, marks however they are disguised."""

from __future__ import annotations

import base64
import codecs
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.core.errors import ConfigError
from platen.scan.screen import Scanner, screened
from platen.scan.words import Words
from platen.serve.guards.canary import LENGTH, Canary
from platen.serve.guards.patterns import Patterns
from tests.serve.guards.pieces import cut, masked, streamed, texts, until_blocked

WORDS = Words(["badword", "Black Friday", "naïve", "ass", "foo!", "bad"])
PATTERNS = Patterns([r"\bproject[ -]\d{3,5}\b", r"code(?:name)?", r"(?:x|y){2,4}z?"])
CANARY = Canary("k3v9q2m8x1c7b5n0z4t6")
CUTS = st.lists(st.integers(0, 10_000), max_size=60)


def mask(scanner: Scanner, text: str) -> str:
    return screened(scanner, masked, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A BADWORD here", "A [word] here"),
        ("badwords, class, assess", "badwords, class, assess"),
        ("bad\u200bword bаdwоrd ｂａｄｗｏｒｄ bádwörd", "[word] [word] [word] [word]"),
        ("b a d w o r d, b.a.d.w.o.r.d, b-a-d-w-o-r-d", "[word], [word], [word]"),
        ("on black friday we NAIVE ones", "on [word] we [word] ones"),
        ("foo!bar foo", "[word]bar foo"),
        ("bad badword", "[word] [word]"),
    ],
)
def test_words_are_found_however_they_are_written(text: str, expected: str) -> None:
    assert mask(WORDS, text) == expected


def test_patterns_are_found_in_any_case_and_width() -> None:
    assert (
        mask(PATTERNS, "PROJECT-１２３ and project 123456, Codename")
        == "[pattern] and project 123456, [pattern]"
    )


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a*b", "can match more than"),
        ("a{1,500}", "can match more than"),
        ("(a{0,9}){0,9}", "steps"),
        ("a{0,30}a{0,30}a{0,30}", "steps"),
        ("(?=a)b", "assert"),
        (r"(a)\1", "groupref"),
        ("^a", "at is not"),
        ("[a", "unterminated"),
        ("(?x)a b", "flags"),
        ("(?s:a.b)", "flags"),
        ("(?:foo){e<=1}", "brace"),
    ],
)
def test_patterns_that_could_take_long_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Patterns([pattern])


def test_empty_lists_find_nothing() -> None:
    for scanner in (Words([]), Words(["\u200b"]), Patterns([])):
        assert streamed(scanner, ["any", "thing"]) == "anything"


def test_a_canary_is_drawn_anew_for_each_process() -> None:
    one, other = Canary(), Canary()
    assert len(one.token) == LENGTH
    assert one.token != other.token
    assert one.token in one.marked("You are a bot.")


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
def test_a_canary_is_found_in_base64_at_any_place(before: str) -> None:
    text = base64.b64encode(f"{before}{CANARY.token}, and more".encode()).decode()
    assert until_blocked(CANARY, [text])[1] == "base64"


def test_a_canary_is_found_in_its_disguises() -> None:
    token = CANARY.token
    for text, rule in {
        token: "plain",
        token.upper(): "plain",
        " ".join(token): "plain",
        "-\n".join(token): "plain",
        "\u200b".join(token): "plain",
        token[::-1]: "reversed",
        codecs.encode(token, "rot13"): "rot13",
        token.encode().hex(" "): "hex",
    }.items():
        assert until_blocked(CANARY, [f"It says {text}."])[1] == rule
    assert until_blocked(CANARY, [f"It says {token[:-1]} and no more."])[1] is None


@settings(max_examples=150)
@given(
    texts(["badword", "black friday", "b a d w o r d", "bad\u200bword", "project-123", "codename", "xyxyz"]),
    CUTS,
)
def test_pieces_give_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    for scanner in (WORDS, PATTERNS):
        assert streamed(scanner, cut(text, cuts)) == mask(scanner, text)
        assert until_blocked(scanner, cut(text, cuts)) == until_blocked(scanner, [text])


@settings(max_examples=100)
@given(texts([CANARY.token, CANARY.token[::-1], " ".join(CANARY.token)]), CUTS)
def test_a_canary_in_pieces_is_a_canary(text: str, cuts: list[int]) -> None:
    assert until_blocked(CANARY, cut(text, cuts)) == until_blocked(CANARY, [text])


@given(CUTS)
def test_no_letter_of_a_canary_gets_out(cuts: list[int]) -> None:
    given_on, rule = until_blocked(CANARY, cut(f"It is: {CANARY.token}!", cuts))
    assert (given_on, rule) == ("It is: ", "plain")


@pytest.mark.parametrize(
    "unit", ["bad", "b a d ", "black ", "x", "xy", "project ", "k3v9", "é\u200b", "\u200b"]
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.perf_counter()
    for scanner in (WORDS, PATTERNS, CANARY):
        mask(scanner, text)
    assert time.perf_counter() - began < 10
