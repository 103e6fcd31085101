"""Conversions are exact, by the other libraries' own code, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import tiktoken.load

from platen.core.errors import BundleError
from platen.tokens.convert import Form, convert, open_tokenizer, require_same
from platen.tokens.pieces import ConversionError
from platen.tokens.ranks import LLAMA3_PATTERN, Ranks, ranks_of, tokenizer_of
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import FOREIGN, TEXTS, learned

SAMPLES = (*TEXTS, FOREIGN, " don't  12 ", "a\n\n\nb", "=====  ====")


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, special=False) for text in SAMPLES]


def test_tiktoken_encodes_alike_and_the_way_back_is_the_same(tmp_path: Path) -> None:
    ours = learned("bpe")
    convert(ours, tmp_path / "ours.tiktoken", Form.tiktoken)
    more = json.loads((tmp_path / "ours.json").read_text())
    ranks = tiktoken.load.load_tiktoken_bpe(str(tmp_path / "ours.tiktoken"))
    theirs = tiktoken.Encoding(
        "x", pat_str=more["pattern"], mergeable_ranks=ranks, special_tokens=more["special_tokens"]
    )
    assert [theirs.encode_ordinary(text) for text in SAMPLES] == ids(ours)
    assert theirs.encode("<|fim_middle|>", allowed_special="all") == ours.encode("<|fim_middle|>")
    back = open_tokenizer(tmp_path / "ours.tiktoken")
    assert ids(back) == ids(ours)
    assert (back.bos_id, back.eos_id, back.pad_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert back.chat_template == ours.chat_template


def test_ranks_made_by_hand_join_the_lowest_first() -> None:
    """ "abc": ab (256) goes before bc (257), and abc (258) is made of ab and c."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    tokenizer = tokenizer_of(Ranks(LLAMA3_PATTERN, ranks, {}), {})
    assert tokenizer.encode("abc") == [258]
    assert tokenizer.encode("bcab") == [257, 256]
    assert json.loads(tokenizer.raw)["model"]["merges"][-1] == ["ab", "c"]
    with pytest.raises(ConversionError, match="not made of two others"):
        tokenizer_of(Ranks(LLAMA3_PATTERN, ranks | {b"xyz": 259}, {}), {})
    with pytest.raises(ConversionError, match="0x61"):
        tokenizer_of(Ranks(LLAMA3_PATTERN, {k: v for k, v in ranks.items() if k != b"a"}, {}), {})


def test_ids_that_do_not_follow_the_merges_are_no_ranks(tiny_tokenizer: Tokenizer) -> None:
    raw = json.loads(tiny_tokenizer.raw)
    merges = raw["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    with pytest.raises(ConversionError, match="order of its merges"):
        ranks_of(Tokenizer(json.dumps(raw).encode(), {}))


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "sentencepiece_unigram"])
def test_sentencepiece_there_and_back(kind: str, tmp_path: Path) -> None:
    ours = learned(kind)
    convert(ours, tmp_path / "tokenizer.model", Form.sentencepiece)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    # Unigram's sums are of 32 bits there and of 64 here, so ways of the same likelihood may be told apart.
    exact = SAMPLES if kind == "sentencepiece_bpe" else SAMPLES[-4:]
    assert theirs.encode(list(exact)) == [ours.encode(text, special=False) for text in exact]
    back = open_tokenizer(tmp_path)
    assert ids(back) == ids(ours)
    assert (back.bos_id, back.eos_id, back.pad_id) == (ours.bos_id, ours.eos_id, ours.pad_id)


def test_a_sentencepiece_model_that_changes_texts(tmp_path: Path) -> None:
    """As T5 and Llama 2 have it: a blank before a text, NFKC, blanks collapsed."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(TEXTS).splitlines()),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    ours = open_tokenizer(tmp_path / "m.model")
    for text in (*SAMPLES, "  ﬁ  ｗｉｄｅ ", "a <s> b"):
        assert ours.encode(text, special=False) == theirs.encode(text)
    convert(ours, tmp_path / "again.model", Form.sentencepiece)
    with pytest.raises(ConversionError, match=r"llama\.cpp doesn't change"):
        convert(ours, tmp_path / "x.gguf", Form.gguf)
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece_bpe"])
def test_llama_cpp_encodes_alike(kind: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")  # the extra edge, built from source
    ours = learned(kind)
    file = tmp_path / "vocabulary.gguf"
    convert(ours, file, Form.gguf)
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in (*TEXTS, FOREIGN, " don't  12 "):
        found = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert found == ours.encode(text, special=False), text
    assert theirs.tokenize(b"<|fim_middle|>", add_bos=False, special=True) == ours.encode("<|fim_middle|>")
    back = open_tokenizer(file)
    assert ids(back) == ids(ours)
    assert back.chat_template == ours.chat_template


@pytest.mark.parametrize(
    ("kind", "form", "reason"),
    [
        ("bpe", Form.sentencepiece, "cuts texts by rules"),
        ("wordpiece", Form.sentencepiece, "cuts texts by rules"),
        ("wordpiece", Form.tiktoken, "byte-level BPE alone"),
        ("unigram", Form.tiktoken, "byte-level BPE alone"),
        ("wordpiece", Form.gguf, "no name for the way"),
        ("unigram", Form.gguf, "no merges"),
        ("sentencepiece_unigram", Form.gguf, "no merges"),
        ("sentencepiece_bpe", Form.tiktoken, "byte-level BPE alone"),
    ],
)
def test_what_would_not_be_exact_is_refused(kind: str, form: Form, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=reason):
        convert(learned(kind), tmp_path / "out", form)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_told_with_its_text() -> None:
    with pytest.raises(ConversionError, match="'The quick brown"):
        require_same(lambda texts: [[0]] * len(texts), lambda texts: [[1]] * len(texts))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.model", b"not one", "SentencePiece"),
        ("a.tiktoken", b"IQ== 0\nrubbish\n", "line 2"),
        ("a.gguf", b"GG", "not a GGUF file"),
        ("a.json", b"{}", "not a tokenizer"),
        ("a.txt", b"", "ends with"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=reason) as caught:
        open_tokenizer(tmp_path / name)
    assert name in caught.value.message
