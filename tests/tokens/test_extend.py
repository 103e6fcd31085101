"""Words of a domain become tokens, everything else keeps its ids, and a bundle's rows follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from platen.core.errors import DataError
from platen.models.arch.decoder import Decoder
from platen.models.bundle import open_bundle, save_bundle
from platen.models.resize import resize_bundle
from platen.tokens.convert import Form, convert
from platen.tokens.extend import extend_tokenizer
from platen.tokens.specials import CHAT
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import KINDS, TEXTS, learned

WORDS = ("Kubernetes", "kubectl", "Kuber")


@pytest.mark.parametrize("kind", KINDS)
def test_words_become_single_tokens(kind: str) -> None:
    old = learned(kind)
    extension = extend_tokenizer(old, words=WORDS, specials=CHAT)
    new = extension.tokenizer
    assert sorted(extension.origins) == list(range(old.vocab_size, new.vocab_size))
    for word in WORDS:
        sentence = [new.token_text(id).strip() for id in new.encode(f"in {word}, {word}")]
        assert sentence.count(word) == 2
    for text in (text for text in TEXTS if "kubectl" not in text):
        assert new.encode(text) == old.encode(text)
    assert new.encode("<|im_start|>") == [new.token_to_id("<|im_start|>")]
    assert extension.origins[new.encode("<|im_start|>")[0]] == ()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_a_new_token_stems_from_the_tokens_of_its_text(kind: str) -> None:
    old = learned(kind)
    extension = extend_tokenizer(old, words=["Kubernetes"])
    for id, origin in extension.origins.items():
        text = b"".join(old.token_bytes(part) for part in origin)
        assert extension.tokenizer.token_bytes(id) == text
    whole = extension.tokenizer.token_to_id("Kubernetes")
    assert whole is not None
    assert list(extension.origins[whole]) == old.encode("Kubernetes")


def test_what_is_no_new_token_is_told() -> None:
    extension = extend_tokenizer(learned("bpe"), words=["kubectl", "kubectl", "a b", "C-3PO", "a"])
    assert extension.refused["a b"] == "has a blank in it, or nothing"
    assert extension.refused["C-3PO"].startswith("is cut into")
    assert extension.refused["a"] == "is a token already"
    with pytest.raises(DataError, match="no token is new: 'a b' has a blank"):
        extend_tokenizer(learned("bpe"), words=["a b"])


def test_an_extended_tokenizer_can_be_extended_and_converted(tmp_path: Path) -> None:
    for kind, form in (("bpe", Form.tiktoken), ("sentencepiece_unigram", Form.sentencepiece)):
        once = extend_tokenizer(learned(kind), words=["Kubernetes"], specials=["<|a|>"]).tokenizer
        twice = extend_tokenizer(once, words=["kubectl"], specials=["<|b|>"]).tokenizer
        assert twice.encode("<|a|><|b|>") == [twice.token_to_id("<|a|>"), twice.token_to_id("<|b|>")]
        convert(twice, tmp_path / kind, form)


@pytest.mark.parametrize("tied", [False, True])
def test_a_bundle_follows_its_tokenizer(
    tied: bool, tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    config = replace(tiny_llama.config, tie_word_embeddings=tied, vocab_size=tiny_tokenizer.vocab_size + 2)
    save_bundle(tmp_path / "old", Decoder(config), tiny_tokenizer)
    old = open_bundle(tmp_path / "old")
    extension = extend_tokenizer(tiny_tokenizer, words=["Kubernetes"], specials=["<|im_start|>"])
    rows = resize_bundle(old, extension.tokenizer, extension.origins, tmp_path / "new")
    assert rows == extension.tokenizer.vocab_size
    ours, theirs = open_bundle(tmp_path / "new"), AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["tie_word_embeddings"] is tied
    before, used = old.model.state_dict(), tiny_tokenizer.vocab_size
    whole = extension.tokenizer.token_to_id("Kubernetes")
    mark = extension.tokenizer.token_to_id("<|im_start|>")
    parts = tiny_tokenizer.encode("Kubernetes")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weight = theirs.state_dict()[name]
        source = before.get(name, before["model.embed_tokens.weight"])
        assert torch.equal(weight[:used], source[:used])
        assert torch.allclose(weight[whole], source[parts].mean(dim=0))
        assert torch.allclose(weight[mark], source[:used].mean(dim=0), atol=1e-6)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "new")("To be Kubernetes")["input_ids"]])
    assert whole is not None
    with torch.no_grad():
        assert torch.allclose(ours.model(ids), theirs(ids).logits, atol=1e-4)
        plain = torch.tensor([tiny_tokenizer.encode("To be, or not")])
        assert torch.allclose(ours.model(plain)[..., :used], old.model(plain)[..., :used], atol=1e-5)
