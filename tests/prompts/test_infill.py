"""Prompts for what stands between two texts, as each family of models was trained on them."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from platen.prompts.infill import infill_ends, infill_format, infill_prompt
from platen.tokens.tokenizer import Tokenizer
from tests.toolmodels import tokenizer_with


def asked(special: list[str], prefix: str = "def f(", suffix: str = "  return x\n") -> str:
    tokenizer = tokenizer_with(special=special)
    found = infill_format(tokenizer)
    assert found is not None
    return tokenizer.decode(infill_prompt(tokenizer, found, prefix, suffix), skip_special=False)


def test_the_parts_in_each_familys_order() -> None:
    for marks in (
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ):
        assert asked(list(marks)) == f"{marks[0]}def f({marks[1]}  return x\n{marks[2]}"
    assert asked(["[PREFIX]", "[SUFFIX]", "[MIDDLE]"]) == "[SUFFIX]  return x\n[PREFIX]def f("


def test_a_tokenizer_without_the_tokens() -> None:
    assert infill_format(tokenizer_with()) is None
    assert infill_format(tokenizer_with(special=["<|fim_prefix|>", "<|fim_suffix|>"])) is None


def test_marks_in_the_texts_are_text() -> None:
    marks = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokenizer = tokenizer_with(special=marks)
    found = infill_format(tokenizer)
    assert found is not None
    ids = infill_prompt(tokenizer, found, "<fim_middle>", "<fim_prefix>")
    assert [ids.count(tokenizer.token_to_id(mark) or -1) for mark in marks] == [1, 1, 1]


def test_what_ends_an_answer() -> None:
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|other|>"]
    tokenizer = tokenizer_with(special=marks)
    found = infill_format(tokenizer)
    assert found is not None
    assert [tokenizer.token_text(end) for end in infill_ends(tokenizer, found)] == marks[:4]


def test_a_suffix_gets_no_blank_of_its_own() -> None:
    """CodeLlama's tokenizer puts a blank before a text; a suffix does not begin a text."""
    pieces = {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "<0x0A>": 5, "▁a": 6}
    backend = Backend(models.BPE(pieces, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"])
    tokenizer = Tokenizer(backend.to_str().encode(), {"bos_token": "<s>"}).beginning_with_bos()
    found = infill_format(tokenizer)
    assert found is not None
    names = [tokenizer.token_text(id) for id in infill_prompt(tokenizer, found, "a", "ab a")]
    assert names == ["<s>", "▁<PRE>", " a", "▁<SUF>", "a", "b", " a", "▁<MID>"]
