"""Texts that match a grammar, whatever the model would rather say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.batching.sampling import RandomStream, Row, sample
from platen.engines.protocol import SamplingParams
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler(tiny_tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tiny_tokenizer, 320, (0,))


def random_text(compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> str:
    """What a model that knows nothing writes under the grammar."""
    matcher, stream = compiler.matcher(grammar), RandomStream(seed)
    logits = np.zeros((1, 320), np.float32)
    ids: list[int] = []
    while not matcher.ended and len(ids) < 400:
        token = sample(logits, [Row(SamplingParams(), stream.uniform(), matcher=matcher)])[0]
        if token == 0:
            break
        matcher.accept(token)
        ids.append(token)
    return tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(10))
def test_random_weights_write_valid_json(
    compiler: GrammarCompiler, tiny_tokenizer: Tokenizer, seed: int
) -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    found = json.loads(random_text(compiler, tiny_tokenizer, grammar, seed))
    assert isinstance(found["name"], str)
    assert len(found["name"]) <= 8
    assert isinstance(found["age"], int)
    assert found.keys() == {"name", "age"}


def test_regular_expressions_and_lark(compiler: GrammarCompiler, tiny_tokenizer: Tokenizer) -> None:
    dates = {
        random_text(compiler, tiny_tokenizer, Grammar("regex", "[0-9]{4}-[0-9]{2}"), s) for s in range(5)
    }
    assert all(re.fullmatch(r"\d{4}-\d\d", date) for date in dates)
    assert len(dates) > 1
    yes = Grammar("lark", 'start: "yes" | "no"')
    assert {random_text(compiler, tiny_tokenizer, yes, s) for s in range(12)} == {"yes", "no"}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type": 5}'),
        ("json_schema", "{"),
        ("regex", "(a"),
        ("lark", "start: x"),
        ("regex", "a" * 100_001),
    ],
)
def test_what_is_no_grammar_is_refused(compiler: GrammarCompiler, kind: str, text: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        compiler.matcher(Grammar(kind, text))  # type: ignore[arg-type]


def test_matchers_of_one_grammar_are_independent(compiler: GrammarCompiler) -> None:
    grammar = Grammar("regex", "ab")
    first, second = compiler.matcher(grammar), compiler.matcher(grammar)
    allowed = second.allowed().tolist()
    first.accept(int(first.allowed().argmax()))
    assert second.allowed().tolist() == allowed


def test_text_that_reads_like_a_special_token_is_text(
    compiler: GrammarCompiler, tiny_tokenizer: Tokenizer
) -> None:
    schema = Grammar("json_schema", json.dumps({"enum": ["a <|end|> b"]}))
    assert json.loads(random_text(compiler, tiny_tokenizer, schema, 1)) == "a <|end|> b"


def test_an_embedding_larger_than_the_tokenizer(tiny_tokenizer: Tokenizer) -> None:
    matcher = GrammarCompiler(tiny_tokenizer, 333, (0,)).matcher(Grammar("regex", "(.|\\n)*"))
    assert matcher.allowed().shape == (333,)
    assert not matcher.allowed()[320:].any()
