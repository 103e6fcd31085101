"""Stop strings and held-back text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from platen.engines.batching.detokenize import StopFilter, TextAssembler
from platen.tokens.tokenizer import TextStream, Tokenizer

letters = st.text("ab", max_size=20)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def cut_by_definition(text: str, stop: list[str]) -> str:
    """Read letter by letter; at the first letter that completes a stop string, cut the longest one away."""
    for end in range(len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(pieces=st.lists(letters, max_size=8), stop=stops)
def test_stop_strings_are_cut_wherever_the_pieces_divide(pieces: list[str], stop: list[str]) -> None:
    whole = cut_by_definition("".join(pieces), stop)
    stop_filter, shown = StopFilter(stop), ""
    for piece in pieces:
        result = stop_filter.push(piece)
        shown += result.text
        assert whole.startswith(shown)
        if result.stopped:
            break
    else:
        shown += stop_filter.finish()
    assert shown == whole


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    stop_filter = StopFilter(["\n\nUser:"])
    assert stop_filter.push("Hello\n").text == "Hello"
    assert stop_filter.push("\nUs").text == ""
    assert stop_filter.push("ual").text == "\n\nUsual"
    last = stop_filter.push("\n\nUser: hi")
    assert (last.text, last.stopped) == ("", True)


def test_a_character_of_several_tokens_comes_out_whole(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("né 🦜!")
    assembler = TextAssembler(TextStream(tiny_tokenizer), ())
    pieces = [assembler.push(token_id).text for token_id in ids]
    assert "".join(pieces) + assembler.finish().text == "né 🦜!"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "🦜" in "|".join(pieces)


def test_a_stop_string_can_be_a_character_of_several_tokens(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("so🦜no")
    assembler = TextAssembler(TextStream(tiny_tokenizer), ("🦜",))
    shown = ""
    for token_id in ids:
        result = assembler.push(token_id)
        shown += result.text
        if result.stopped:
            break
    assert shown == "so"
    assert result.stopped


def test_what_is_left_at_the_end_is_shown_or_stopped(tiny_tokenizer: Tokenizer) -> None:
    first_byte_of_a_parrot = tiny_tokenizer.encode("🦜")[0]
    assembler = TextAssembler(TextStream(tiny_tokenizer), ())
    assert assembler.push(first_byte_of_a_parrot).text == ""
    assert assembler.finish().text == "\ufffd"
