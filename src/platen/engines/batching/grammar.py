"""Texts that must match a grammar: which tokens may come next, by llguidance."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.engines.protocol import RequestRefused
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import Tokenizer

MAX_CHARACTERS = 100_000
"""Of a schema, expression or grammar: what compiles in moderate time and memory."""


class Matcher:
    """Follows one text through its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((1, -(-vocab_size // 32)), dtype=np.int32)

    def allowed(self) -> NDArray[np.bool_]:
        """True (V,) where a token may come next; an end-of-text token where the text may end."""
        from llguidance.numpy import fill_next_token_bitmask

        self._bits.fill(0)
        fill_next_token_bitmask(self._matcher, self._bits)
        unpacked = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return unpacked[: self._vocab_size].astype(np.bool_)

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    @property
    def ended(self) -> bool:
        """Nothing may follow."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Makes matchers for one tokenizer; a grammar seen lately is compiled once."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: tuple[int, ...]) -> None:
        self._own, self._vocab_size, self._end_ids = tokenizer, vocab_size, end_ids
        self._tokenizer: Any = None
        self._fresh = lru_cache(maxsize=64)(self._compile)

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a sequence. Raises RequestRefused saying what is wrong with it."""
        return Matcher(self._fresh(grammar).deep_copy(), self._vocab_size)

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

        if len(grammar.text) > MAX_CHARACTERS:
            raise _invalid(grammar, f"it has more than {MAX_CHARACTERS:,} characters")
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                TokenizerWrapper(_Vocabulary(self._own, self._vocab_size, self._end_ids)),
                n_vocab=self._vocab_size,
                eos_token=list(self._end_ids) or None,
            )
        try:
            if grammar.kind == "json_schema":
                source = LLMatcher.grammar_from_json_schema(grammar.text)
            elif grammar.kind == "regex":
                source = LLMatcher.grammar_from_regex(grammar.text)
            else:
                source = LLMatcher.grammar_from_lark(grammar.text)
        except Exception as error:  # the library raises bare ValueError and its own kinds
            raise _invalid(grammar, error) from None
        matcher = LLMatcher(self._tokenizer, source)
        if matcher.is_error():
            raise _invalid(grammar, matcher.get_error())
        return matcher


def _invalid(grammar: Grammar, reason: object) -> RequestRefused:
    message = f"the {grammar.kind} is not valid: {reason}"
    return RequestRefused(message, param="grammar", code="invalid_grammar")


class _Vocabulary:
    """A tokenizer as llguidance wants it: the bytes of each token, and the ids of a text.

    Not built from `tokenizer.json` alone: text of a grammar that reads like a special token would become one,
    which the grammar does not allow, and the text would end there.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0] if end_ids else 0
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = sorted(id for id in tokenizer.special_ids if id < vocab_size)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_inside(text)
