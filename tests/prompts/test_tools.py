"""How a model writes calls of functions: told from its template, read from its text, held to by a grammar."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.engines.batching.grammar import GrammarCompiler
from platen.prompts.structured import Grammar
from platen.prompts.tool_grammar import MOST_CALLS, calls_grammar
from platen.prompts.tool_parser import CallBegun, CallGrown, Said, ToolReader
from platen.prompts.tools import FunctionTool, ToolFormat, tool_format
from tests.toolmodels import MARKERS, ROLES, SCHEMAS, TAIL, TEMPLATES, tokenizer_with, written

STYLES = ["tags", "list", "bare"]
TOOLS = [FunctionTool(name, parameters=schema) for name, schema in SCHEMAS.items()]


def format_of(style: str, *, special: bool = True) -> ToolFormat:
    found = tool_format(tokenizer_with(template=TEMPLATES[style], special=MARKERS[style] if special else []))
    assert found is not None
    return found


FORMATS = {style: format_of(style) for style in STYLES}


def read(style: str, pieces: list[str], *, most: int | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls, as a client puts them together."""
    reader = ToolReader(FORMATS[style], set(SCHEMAS), most=most)
    text, calls = "", []
    for piece in [found for chunk in pieces for found in reader.feed(chunk)] + reader.finish():
        if isinstance(piece, Said):
            text += piece.text
        elif isinstance(piece, CallBegun):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        else:
            assert isinstance(piece, CallGrown)
            name, arguments = calls[piece.index]
            calls[piece.index] = (name, arguments + piece.arguments)
    assert reader.called == bool(calls)
    return text, calls


def test_the_notation_is_told_from_the_template() -> None:
    assert [FORMATS[style].style for style in STYLES] == STYLES
    assert [FORMATS[style].several for style in STYLES] == [True, True, False]
    assert FORMATS["tags"].before == "\n"
    assert FORMATS["tags"].between == "\n</tool_call>\n<tool_call>\n"
    assert (FORMATS["list"].before, FORMATS["list"].between, FORMATS["list"].after) == (" [", ", ", "]")
    assert [kind for kind, _ in FORMATS["list"].parts if kind != "text"] == ["name", "arguments", "id"]
    assert set(FORMATS["tags"].markers) == {"<tool_call>", "</tool_call>"}
    assert format_of("tags", special=False).markers == {}


@pytest.mark.parametrize(
    "template",
    [
        None,
        ROLES + TAIL,  # is not told of the functions
        "{{ tools | tojson }}{{ messages[0].content }}",  # shows no calls
        "{{ tools | tojson }}" + ROLES + "<call>{{ message.tool_calls[0].function.name }}()</call>" + TAIL,
        "{{ tools | tojson }}{{ raise_exception('no') }}",
    ],
)
def test_a_template_without_tools_or_with_a_notation_of_its_own(template: str | None) -> None:
    assert tool_format(tokenizer_with(template=template)) is None


def test_a_template_of_its_own_for_tools() -> None:
    found = tool_format(tokenizer_with(template={"default": ROLES + TAIL, "tool_use": TEMPLATES["tags"]}))
    assert found is not None
    assert found.style == "tags"


def test_blanks_keys_and_order_are_the_models_own() -> None:
    template = TEMPLATES["tags"].replace(
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}',
        '{ "arguments":{{ call.function.arguments | tojson(separators=(",", ":")) }},'
        '"name":"{{ call.function.name }}" }',
    )
    found = tool_format(tokenizer_with(template=template))
    assert found is not None
    assert found.separators == (",", ":")
    assert [text for kind, text in found.parts if kind == "text"] == ['{ "arguments":', ',"name":"', '" }']


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=8), json_values, max_size=3)
layouts = st.sampled_from([None, 2, 0])
said = st.text(st.characters(exclude_characters="<[{|", exclude_categories=["Cs"]), max_size=20)


def divided(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


@given(
    style=st.sampled_from(STYLES),
    before=said,
    calls=st.lists(
        st.tuples(st.sampled_from(["weather", "now"]), arguments, layouts), min_size=1, max_size=3
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_what_is_written_is_read_however_it_is_divided(
    style: str, before: str, calls: list[tuple[str, dict[str, object], int | None]], cuts: list[int]
) -> None:
    before = "" if style == "bare" else before
    texts = [
        (name, json.dumps(value, indent=indent, ensure_ascii=indent == 2)) for name, value, indent in calls
    ]
    whole = before + written(style, texts)
    assert read(style, divided(whole, cuts)) == (before.rstrip(), texts)
    assert read(style, [whole], most=1) == (before.rstrip(), texts[:1])


fragments = st.sampled_from(
    [
        *[
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "<|python_tag|>",
            "[",
            "]",
            "{",
            "}",
            ",",
            ";",
            "\n",
            " ",
        ],
        *['"', "\\", ":", "x", "1", "<", "null", '{"name": "now", "arguments": {}}', '"name"', '"arguments"'],
        *[
            '{"name": "weather", "parameters": {"a": "}"}}',
            '"{}"',
            '"now"',
            '{"arguments": {}, "name": "now"}',
        ],
    ]
)


@given(
    style=st.sampled_from(STYLES),
    pieces=st.lists(fragments, max_size=14),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_how_any_text_is_divided_makes_no_difference(style: str, pieces: list[str], cuts: list[int]) -> None:
    whole = "".join(pieces)
    text, calls = read(style, [whole])
    assert read(style, list(whole)) == (text, calls)
    assert read(style, divided(whole, cuts)) == (text, calls)
    if not calls:
        assert text == whole


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("tags", "A <tool_call> without an object."),
        ("tags", '<tool_call>{"city": "Bern"}</tool_call>'),
        ("tags", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        ("tags", "<tool_call>{'name': 'now'}</tool_call>"),
        ("list", '[TOOL_CALLS] {"name": "now", "arguments": {}}'),
        ("bare", '{"answer": {"name": "now", "parameters": {}}}'),
        ("bare", '{"name": "unknown", "parameters": {}}'),
        ("bare", 'Call {"name": "now", "parameters": {}}'),
        ("bare", "<|python_tag|>print(1)"),
    ],
)
def test_what_is_no_call_is_text(style: str, text: str) -> None:
    assert read(style, [text]) == (text, [])


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("tags", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', ("", [("other", "{}")])),
        ("tags", '<tool_call>{"name": "now"}</tool_call> Done.', (" Done.", [("now", "{}")])),
        ("tags", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}', ("", [("now", '{"a": 1}')])),
        ("tags", '<tool_call>{"arguments": {"a": 1}, "name": "now"}', ("", [("now", '{"a": 1}')])),
        ("tags", '<tool_call>{"name": "now", "arguments": {"a": "cut', ("", [("now", '{"a": "cut')])),
        ("tags", '<tool_call>{"name": "now", "argu', ('<tool_call>{"name": "now", "argu', [])),
        ("bare", '<|python_tag|>{"name": "now", "parameters": {}}', ("", [("now", "{}")])),
        ("bare", ' {"type": "function", "name": "now", "parameters": {}}', ("", [("now", "{}")])),
    ],
)
def test_liberties_that_models_take(
    style: str, text: str, expected: tuple[str, list[tuple[str, str]]]
) -> None:
    assert read(style, list(text)) == expected


def test_arguments_are_given_as_they_grow() -> None:
    reader = ToolReader(FORMATS["tags"], ())
    assert reader.feed('Yes. <tool_call>{"name": "now", "arguments": {"a') == [
        Said("Yes."),
        CallBegun(0, "now"),
        CallGrown(0, '{"a'),
    ]
    assert reader.feed('": 1}') == [CallGrown(0, '": 1}')]
    assert reader.feed("}</tool_call>") == reader.finish() == []


def test_a_model_that_writes_markers_only_is_read_in_time() -> None:
    whole = "<tool_call>{" * 3_000
    assert read("tags", [whole]) == (whole, [])


def some_text(style: str, grammar: Grammar, seed: int, *, special: bool) -> str:
    """A random text that the grammar allows, as a model of random weights writes it."""
    tokenizer = tokenizer_with(template=TEMPLATES[style], special=MARKERS[style] if special else [])
    matcher = GrammarCompiler(tokenizer, tokenizer.vocab_size, (0,)).matcher(grammar)
    chance = random.Random(seed)
    ids: list[int] = []
    while not matcher.ended and len(ids) < 4000:
        ids.append(int(chance.choice(np.flatnonzero(matcher.allowed()).tolist())))
        if ids[-1] == 0:
            return tokenizer.decode(ids[:-1], skip_special=False)
        matcher.accept(ids[-1])
    return tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_a_grammar_makes_any_model_call_by_the_schemas(style: str, special: bool) -> None:
    found = format_of(style, special=special)
    counts = set()
    for seed in range(12):
        text, calls = read(
            style, [some_text(style, calls_grammar(found, TOOLS, several=True), seed, special=special)]
        )
        assert text == ""
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
        counts.add(len(calls))
    assert min(counts) == 1
    assert max(counts) <= (MOST_CALLS if found.several else 1)
    assert (max(counts) > 1) == found.several
    one = calls_grammar(found, TOOLS[:1], several=False)
    assert [name for name, _ in read(style, [some_text(style, one, 1, special=special)])[1]] == ["weather"]


@pytest.mark.parametrize("style", STYLES)
def test_a_grammar_of_calls_or_an_answer(style: str) -> None:
    seen = set()
    for answer, pattern in (
        (Grammar("regex", "yes/no|[ab]/"), r"yes/no|[ab]/"),
        (Grammar("json_schema", '{"enum": [1, 2]}'), "1|2"),
    ):
        grammar = calls_grammar(FORMATS[style], TOOLS, several=True, instead=answer)
        for seed in range(8):
            text, calls = read(style, [some_text(style, grammar, seed, special=True)])
            assert calls or re.fullmatch(pattern, text)
            seen.add(bool(calls))
    assert seen == {True, False}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_free_text_and_strict_calls(style: str, special: bool) -> None:
    found = format_of(style, special=special)
    grammar = calls_grammar(found, TOOLS, several=True, instead="text")
    compiler_text = [some_text(style, grammar, seed, special=special) for seed in range(3)]
    for text in compiler_text:
        _, calls = read(style, [text])
        for name, arguments in calls:
            assert name in SCHEMAS
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
