"""On all cores the ids are those of the tokenizer alone, whichever encoder does the work."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.core.errors import DataError
from platen.tokens.bulk import BulkEncoder
from platen.tokens.count import Counter
from platen.tokens.extend import extend_tokenizer
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import FOREIGN, KINDS, TEXTS, learned

MARKED = st.lists(
    st.sampled_from(["<|tool|>", "<|end_of_text|>", "light", " don't", "\n", "  ", "é🙂", "12345"])
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [False, True])
def test_ids_in_bulk(kind: str, special: bool) -> None:
    tokenizer = learned(kind)
    encoder = BulkEncoder(tokenizer, special=special)
    assert encoder.fast is (kind == "bpe")
    for text in (*TEXTS, FOREIGN, "", "a<|tool|>b", "<|end_of_text|>"):
        assert encoder.ids(text).tolist() == tokenizer.encode(text, special=special)


@given(
    text=st.text(
        st.one_of(
            st.characters(exclude_categories=["Cs"]),
            st.sampled_from("'sStTlL\u017f\u212a \n\r\t\x85\u2028\u3000a1\u00bd\u2167\u0301"),
        )
    )
)
def test_any_text_in_bulk(text: str) -> None:
    tokenizer = learned("bpe")
    assert BulkEncoder(tokenizer).ids(text).tolist() == tokenizer.encode(text, special=False)


def test_every_character_in_bulk() -> None:
    """Before a bracket and a letter it shows whether a character counts as a letter."""
    tokenizer = learned("bpe")
    encoder = BulkEncoder(tokenizer)
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(letters), 4096):
        if start < 0x35000 or start % (16 * 4096) == 0:  # above are hardly any
            text = "".join(f"{letter}(t\n" for letter in letters[start : start + 4096])
            assert encoder.ids(text).tolist() == tokenizer.encode(text, special=False)


@given(pieces=MARKED)
def test_marks_in_texts(pieces: list[str]) -> None:
    tokenizer = learned("bpe")
    text = "".join(pieces)
    for special in (False, True):
        found = BulkEncoder(tokenizer, special=special).ids(text).tolist()
        assert found == tokenizer.encode(text, special=special)


def test_added_words_are_found_the_longest_first() -> None:
    raw = extend_tokenizer(learned("bpe"), specials=["<|a|>", "<|a|>b"]).tokenizer
    assert BulkEncoder(raw, special=True).ids("x<|a|>b<|a|>").tolist() == raw.encode("x<|a|>b<|a|>")


def test_endless_blanks_are_no_error() -> None:
    """Some regular expressions give up on them."""
    tokenizer = learned("bpe")
    text = " " * 300_000 + "x"
    assert BulkEncoder(tokenizer).ids(text).tolist() == tokenizer.encode(text)


def test_a_fresh_encoder_gives_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platen.tokens.fast._BYTES_AN_ENCODER", 40)
    tokenizer = learned("bpe")
    encoder = BulkEncoder(tokenizer)
    for text in (*TEXTS, FOREIGN):
        assert encoder.ids(text).tolist() == tokenizer.encode(text, special=False)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(DataError, match="U\\+D800"):
        BulkEncoder(learned("bpe")).ids("a\ud800")


def test_counting_several_texts() -> None:
    """Each by itself: a word that one text ends with does not go on in the next."""
    tokenizer = learned("bpe")
    texts = ["light", "light", "é🙂", ""]
    found = Counter(tokenizer).count_texts("x", texts)
    assert (found.tokens, found.characters, found.bytes) == (
        sum(len(tokenizer.encode(text)) for text in texts),
        12,
        16,
    )


def test_counting_while_reading(tiny_tokenizer: Tokenizer) -> None:
    text = "\n".join([*TEXTS, FOREIGN]) * 1_500
    data = text.encode()
    for tokenizer in (learned("bpe"), tiny_tokenizer):  # the second one's texts can't be cut
        found = Counter(tokenizer).count("x", io.BytesIO(data))
        assert (found.tokens, found.characters, found.bytes) == (
            len(tokenizer.encode(text)),
            len(text),
            len(data),
        )
    with pytest.raises(DataError, match="byte 0xff at offset 4000001"):
        Counter(learned("bpe")).count("x", io.BytesIO(b"a" * 4_000_001 + b"\xff"))
    assert Counter(learned("bpe")).count("x", io.BytesIO(b"")).tokens == 0
