"""Costs by language, the tables of the book, and the round trip over all planes of Unicode."""

from __future__ import annotations

from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.tokens.audit import audit, language_cost, plot_audit, read_language_texts, round_trip
from platen.tokens.languages import SENTENCES, character_bytes, text_size
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import learned


@pytest.mark.parametrize(
    ("language", "characters", "size"),
    [
        ("English", 43, 43),
        ("French", 57, 57),
        ("Spanish", 52, 54),
        ("Japanese", 20, 60),
        ("Chinese (simplified)", 12, 36),
    ],
)
def test_the_same_sentence_in_five_languages(language: str, characters: int, size: int) -> None:
    found = text_size(SENTENCES[language])
    assert (found.characters, found.bytes) == (characters, size)


@pytest.mark.parametrize(
    ("character", "binary", "hexadecimal"),
    [
        ("$", "00100100", "0x24"),
        ("£", "11000010 10100011", "0xc2 0xa3"),
        ("¥", "11000010 10100101", "0xc2 0xa5"),
        ("₠", "11100010 10000010 10100000", "0xe2 0x82 0xa0"),
        ("💰", "11110000 10011111 10010010 10110000", "0xf0 0x9f 0x92 0xb0"),
    ],
)
def test_currency_characters_in_utf_8(character: str, binary: str, hexadecimal: str) -> None:
    found = character_bytes(character)
    assert (found.binary, found.hexadecimal) == (binary, hexadecimal)


def test_words_are_what_blanks_part() -> None:
    assert text_size(SENTENCES["English"]).words == 9
    assert text_size(SENTENCES["Korean"]).words == 6
    assert text_size(SENTENCES["Japanese"]).words is None
    assert text_size("") == text_size("").__class__(0, 0, 0)


def test_unknown_tokens_by_hand() -> None:
    """A vocabulary of words knows two of these five: `def` and `y`, as a text on code would have it."""
    raw = (
        b'{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,'
        b' "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "unk_token": "[UNK]",'
        b' "vocab": {"[UNK]": 0, "def": 1, "y": 2}}}'
    )
    words = Tokenizer(raw, {"unk_token": "[UNK]"})
    cost = language_cost(words, "words", "Python", "def add(x, y ): return")
    assert (cost.tokens, cost.unknown, cost.unknown_rate) == (5, 3, 0.6)
    assert cost.tokens_per_word == 1.0
    assert cost.tokens_per_byte == 5 / 22
    assert language_cost(learned("bpe"), "bpe", "Python", "def add(x, y ): return").unknown == 0


def test_every_character_of_unicode_comes_back() -> None:
    trips = list(round_trip(learned("bpe"), "bpe"))
    assert [trip.plane for trip in trips] == list(range(17))
    assert sum(trip.points for trip in trips) == 1_114_112 - 2_048
    assert all(trip.returned == trip.points for trip in trips)


def test_lost_characters_are_told() -> None:
    first = next(round_trip(learned("sentencepiece_bpe"), "pieces"))
    assert (first.points - first.returned, first.first_lost) == (1, "U+2581")


def test_a_table_of_named_tokenizers(tmp_path: Path) -> None:
    named = {kind: learned(kind) for kind in ("bpe", "wordpiece")}
    found = audit(named, planes=False)
    assert found.vocabularies == {name: one.vocab_size for name, one in named.items()}
    japanese = found.cost("bpe", "Japanese")
    assert japanese.tokens == len(named["bpe"].encode(SENTENCES["Japanese"]))
    assert found.cost("wordpiece", "Japanese").unknown_rate == 1.0
    assert len(found.to_json()["languages"]) == 2 * len(SENTENCES)
    plot_audit(found, tmp_path / "audit.png")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_marks_what_is_unknown(tmp_path: Path) -> None:
    """[UNK] for a whole sentence is few tokens, and not cheap. SVG files have their texts as comments."""
    plot_audit(audit({"bpe": learned("bpe")}, planes=False), tmp_path / "bpe.svg")
    plot_audit(audit({"wordpiece": learned("wordpiece")}, planes=False), tmp_path / "wordpiece.svg")
    assert "<!-- 100% unknown -->" in (tmp_path / "wordpiece.svg").read_text()
    assert "unknown" not in (tmp_path / "bpe.svg").read_text()


def test_texts_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no"):
        read_language_texts(tmp_path)
    (tmp_path / "Latin.txt").write_text("Gallia est omnis divisa")
    assert read_language_texts(tmp_path) == {"Latin": "Gallia est omnis divisa"}
