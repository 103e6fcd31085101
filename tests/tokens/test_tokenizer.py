"""Exact round trips, streams of whole characters, chat templates that can't escape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.core.errors import BundleError
from platen.tokens.tokenizer import TextStream, Tokenizer

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """A tokenizer of Llama 2's kind: word marks for blanks, unknown characters as byte tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ("▁", *"abcdehlorw", "ab", "▁a"):
        vocabulary[piece] = len(vocabulary)
    raw = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": ["a b", "▁ a"],
        },
    }
    return Tokenizer(json.dumps(raw).encode(), {"eos_token": "</s>"})


@given(text=TEXTS)
def test_every_text_comes_back(tiny_tokenizer: Tokenizer, text: str) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


def cut(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    sizes = data.draw(st.lists(st.integers(0, 3), max_size=len(ids)))
    pieces = []
    for size in sizes:
        pieces.append(ids[:size])
        ids = ids[size:]
    return [*pieces, ids]


@given(text=TEXTS, data=st.data())
@settings(max_examples=200)
def test_stream_shows_whole_characters_only(
    tiny_tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    stream = TextStream(tiny_tokenizer)
    pushed = [stream.push(piece) for piece in cut(data, tiny_tokenizer.encode(text))]
    assert "".join(pushed) + stream.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pushed)


@given(ids=st.lists(st.integers(0, 319), max_size=40), data=st.data())
@settings(max_examples=200)
def test_stream_equals_decode_whatever_the_model_says(
    tiny_tokenizer: Tokenizer, ids: list[int], data: st.DataObject
) -> None:
    """Random ids are mostly broken UTF-8, with special tokens among them."""
    stream = TextStream(tiny_tokenizer)
    pushed = [stream.push(piece) for piece in cut(data, ids)]
    assert "".join(pushed) + stream.finish() == tiny_tokenizer.decode(ids)


@given(text=st.text(alphabet="abcdehlorw é🙂日", max_size=40))
@settings(max_examples=200)
def test_stream_with_word_marks_and_byte_fallback(byte_fallback: Tokenizer, text: str) -> None:
    ids = byte_fallback.encode(text)
    stream = TextStream(byte_fallback)
    pushed = [stream.push([id]) for id in ids]
    assert "".join(pushed) + stream.finish() == byte_fallback.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pushed)


@pytest.mark.parametrize("prompt", ["ac", "a cold", "héllo 🙂 be"])
@pytest.mark.parametrize("answer", [" bad", "b", " a\ue000é🙂"])
def test_a_stream_goes_on_from_its_prompt(byte_fallback: Tokenizer, prompt: str, answer: str) -> None:
    """The blank before an answer's first word would be lost if the answer were decoded by itself."""
    prompt_ids = byte_fallback.encode(prompt)
    ids = byte_fallback.encode(prompt + answer)[len(prompt_ids) :]
    stream = TextStream(byte_fallback, after=prompt_ids)
    assert "".join(stream.push([id]) for id in ids) + stream.finish() == answer


def test_a_stream_after_half_a_character_stands_alone(tiny_tokenizer: Tokenizer) -> None:
    half = tiny_tokenizer.encode("🦊")[:1]
    stream = TextStream(tiny_tokenizer, after=[*tiny_tokenizer.encode("To be"), *half])
    assert stream.push(tiny_tokenizer.encode(" or")) + stream.finish() == " or"


@given(text=TEXTS)
def test_the_bytes_of_tokens_are_those_of_the_text(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert b"".join(tiny_tokenizer.token_bytes(id) for id in ids) == text.encode()


def test_bytes_and_names_of_single_tokens(tiny_tokenizer: Tokenizer, byte_fallback: Tokenizer) -> None:
    assert tiny_tokenizer.token_bytes(0) == b"<|end|>"
    assert tiny_tokenizer.token_bytes(9_999) == b""
    assert [tiny_tokenizer.token_text(id) for id in tiny_tokenizer.encode("é")] in (
        ["é"],
        ["bytes:\\xc3", "bytes:\\xa9"],
    )
    blank, *parts = byte_fallback.encode("é")
    assert byte_fallback.token_bytes(blank) == b" "
    assert [byte_fallback.token_bytes(id) for id in parts] == [b"\xc3", b"\xa9"]
    marked = byte_fallback.token_to_id("▁a")
    assert marked is not None
    assert byte_fallback.token_text(marked) == " a"


@given(pieces=st.lists(st.sampled_from(["To be", "né 🦜", "<|end|>", " ", "日"]), max_size=8))
def test_a_stream_shows_the_special_tokens_that_it_is_told_to(
    tiny_tokenizer: Tokenizer, pieces: list[str]
) -> None:
    ids = tiny_tokenizer.encode("".join(pieces))
    for shown, expected in (([0], "".join(pieces)), ([], "".join(pieces).replace("<|end|>", ""))):
        stream = TextStream(tiny_tokenizer)
        stream.show(shown)
        assert "".join([stream.push([id]) for id in ids] + [stream.finish()]) == expected


def test_stream_is_immediate(tiny_tokenizer: Tokenizer) -> None:
    """Text that is certain isn't held back; half an emoji is."""
    stream = TextStream(tiny_tokenizer)
    assert stream.push(tiny_tokenizer.encode("To be")) == "To be"
    first, *rest = (id for byte in "🦊".encode() for id in _byte_ids(tiny_tokenizer, byte))
    assert stream.push([first]) == ""
    assert stream.push(rest) == "🦊"
    assert stream.push([first]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def _byte_ids(tokenizer: Tokenizer, byte: int) -> list[int]:
    from tokenizers import pre_tokenizers

    # The byte-level alphabet gives each byte a visible letter; 0xF0 and its followers are those letters.
    visible = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = visible.pre_tokenize_str("🦊")[0][0]
    found = tokenizer.token_to_id(letters[list("🦊".encode()).index(byte)])
    assert found is not None
    return [found]


def test_special_tokens(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.eos_id == 0
    assert tiny_tokenizer.bos_id is None
    assert tiny_tokenizer.encode("<|end|>") == [0]
    plain = tiny_tokenizer.encode("<|end|>", special=False)
    assert 0 not in plain
    assert tiny_tokenizer.decode(plain) == "<|end|>"
    assert tiny_tokenizer.decode([0, *tiny_tokenizer.encode("a")]) == "a"
    assert tiny_tokenizer.decode([0], skip_special=False) == "<|end|>"
    assert tiny_tokenizer.encode_batch(["a b", "<|end|>"]) == [tiny_tokenizer.encode("a b"), [0]]


def test_saved_and_read_it_is_the_same(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path / "t")
    again = Tokenizer.from_dir(tmp_path / "t")
    assert again.sha256 == tiny_tokenizer.sha256
    assert again.vocab_size == 320


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer_config.json", "{,", "tokenizer_config.json is not valid"),
    ],
)
def test_damaged_folders(
    tiny_tokenizer: Tokenizer, tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    tiny_tokenizer.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(BundleError, match=says):
        Tokenizer.from_dir(tmp_path)
