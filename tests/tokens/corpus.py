"""A small corpus in several languages, and a tokenizer of each kind learned from it."""

from __future__ import annotations

import functools
from pathlib import Path

from platen.tokens.config import TokenizerConfig
from platen.tokens.learn import learn_tokenizer
from platen.tokens.tokenizer import Tokenizer

KINDS = ("bpe", "wordpiece", "unigram", "sentencepiece_bpe", "sentencepiece_unigram")
TEXTS = (
    "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"
    * 3,
    "def light(window):\n    return {'east': window[0] * 12345}  # the sun\n" * 3,
    "KEY <s> | 0xABCDEF_3: Jackdaws love my big sphinx of quartz! Who? kubectl, Kubernetes.\n",
    "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch.\n" * 3,
)
FOREIGN = "Ach, daß ich ein Mäuschen wär! 🙂 12345\r\n\t日本語"


@functools.cache
def learned(kind: str) -> Tokenizer:
    """400 entries, with marks for gaps and one more."""
    config = TokenizerConfig(
        kind=kind,  # type: ignore[arg-type]
        vocab_size=400,
        fill_in_the_middle=True,
        special_tokens=("<|tool|>",),
    )
    return learn_tokenizer(iter(TEXTS), config, Path())
