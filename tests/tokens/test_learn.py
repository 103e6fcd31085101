"""Tokenizers of five kinds: exact round trips, special tokens, the same ids in the libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from platen.core.errors import ConfigError, DataError
from platen.tokens.config import TokenizerConfig
from platen.tokens.learn import learn_tokenizer
from platen.tokens.pieces import ConversionError, from_tokenizer
from platen.tokens.sentencepiece_file import sentencepiece_processor, write_sentencepiece
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import FOREIGN, KINDS, TEXTS, learned


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wordpiece"])
def test_every_text_comes_back(kind: str) -> None:
    tokenizer = learned(kind)
    for text in (FOREIGN, "", " ", "  a\n\n b ", "<|end_of_text|> is text", "🙂🙃\u2028"):
        assert tokenizer.decode(tokenizer.encode(text, special=False)) == text


def test_wordpiece_marks_what_it_does_not_know() -> None:
    tokenizer = learned("wordpiece")
    assert tokenizer.decode(tokenizer.encode("light, light!")) == "light, light!"
    assert tokenizer.unknown_id in tokenizer.encode("日本")


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_the_marks_of_gaps(kind: str) -> None:
    tokenizer = learned(kind)
    marks = ("<|begin_of_text|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|tool|>")
    for mark in marks:
        assert tokenizer.encode(mark) == [tokenizer.token_to_id(mark)]
        assert tokenizer.token_to_id(mark) in tokenizer.special_ids
        assert tokenizer.token_to_id(mark) not in tokenizer.encode(mark, special=False)
    assert len({tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}) == 3


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_the_same_texts_give_the_same_file(kind: str) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=400)
    first, second = (learn_tokenizer(iter(TEXTS), config, Path()) for _ in range(2))
    assert first.raw == second.raw


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_the_same_ids(kind: str, tmp_path: Path) -> None:
    ours = learned(kind)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, FOREIGN):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "sentencepiece_unigram"])
def test_sentencepiece_gives_the_same_ids(kind: str) -> None:
    ours = learned(kind)
    theirs = sentencepiece_processor(write_sentencepiece(from_tokenizer(ours)))
    assert (theirs.bos_id(), theirs.eos_id(), theirs.pad_id()) == (ours.bos_id, ours.eos_id, ours.pad_id)
    # Unigram's sums are of 32 bits there and of 64 here: repeated lines of so few words are full of ties.
    texts = TEXTS if kind == "sentencepiece_bpe" else ()
    for text in (*texts, FOREIGN, "<|end_of_text|>"):
        assert theirs.encode(text) == ours.encode(text, special=False)
        assert theirs.decode(theirs.encode(text)) == text


def test_what_can_not_be_learned_is_refused() -> None:
    config = TokenizerConfig(vocab_size=260, fill_in_the_middle=True, special_tokens=("<|x|>",))
    with pytest.raises(ConfigError, match="7 special tokens have to fit"):
        learn_tokenizer(TEXTS, config, Path())
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # more characters than entries
    with pytest.raises(DataError, match="SentencePiece can't learn"):
        learn_tokenizer([many], TokenizerConfig(kind="sentencepiece_bpe", vocab_size=300), Path())


def test_a_byte_level_tokenizer_is_no_sentencepiece(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConversionError, match="cuts texts by rules"):
        from_tokenizer(tiny_tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["\n \n", "\t"]])
def test_nothing_is_learned_from_no_text(kind: str, texts: list[str]) -> None:
    with pytest.raises(DataError, match="nothing to learn a tokenizer from"):
        learn_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=400), Path())
