"""The project file's `tokenizer`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from platen.core.config import PathInFile, PositiveInt, Section, Text


class TokenizerConfig(Section):
    """A tokenizer trained on the training split."""

    kind: Literal["bpe", "wordpiece", "unigram", "sentencepiece_bpe", "sentencepiece_unigram"] = "bpe"
    """The algorithm. `bpe` and `unigram` work on bytes; `wordpiece` is BERT's and loses blanks."""
    vocab_size: Annotated[int, Field(ge=259, le=1_000_000)] = 1024
    """Entries in all: 256 bytes, merges and special tokens."""
    min_frequency: PositiveInt = 2
    """A pair seen fewer times is never merged (`bpe`, `wordpiece`)."""
    chat_template: Text | None = None
    """`plain`, `instruct`, or a Jinja file relative to the project file; `plain` when absent."""
    fill_in_the_middle: bool = False
    """Also have the special tokens that mark the parts of a text with a gap."""
    special_tokens: tuple[Text, ...] = ()
    """Further special tokens."""

    def paths(self) -> Iterator[PathInFile]:
        if self.chat_template is not None:
            yield PathInFile("chat_template", self.chat_template, "template", self)
