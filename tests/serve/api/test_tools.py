"""Functions in chats, with the official OpenAI client: told to the model, read from its text, held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from platen.tokens.tokenizer import Tokenizer
from tests.serve.conftest import random_server
from tests.serve.running import RunningServer, ScriptedEngine, serving
from tests.toolmodels import MARKERS, SCHEMAS, TEMPLATES, tokenizer_with, written

STYLES = ["tags", "list", "bare"]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "It tells.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Rain?"}], "tools": TOOLS}
BERN = '{"city": "Bern", "days": 2}'


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_with(template=TEMPLATES[request.param], special=MARKERS[request.param])


@pytest.fixture
def style(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> str:
    return next(style for style, template in TEMPLATES.items() if template == tokenizer.chat_template)


@pytest.fixture(scope="module")
def random_client(tokenizer: Tokenizer) -> Iterator[openai.OpenAI]:
    """A model of random weights that was made for tools."""
    with random_server(tokenizer, window=512) as server, client_of(server) as client:
        yield client


def client_of(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([])


@pytest.fixture
def client(engine: ScriptedEngine, tokenizer: Tokenizer) -> Iterator[openai.OpenAI]:
    with serving(engine, tokenizer) as server, client_of(server) as client:
        yield client


def says(engine: ScriptedEngine, text: str) -> None:
    engine.pieces = [text[at : at + 3] for at in range(0, len(text), 3)]


def streamed(client: openai.OpenAI, **body: Any) -> tuple[str | None, list[tuple[str, str]], str | None]:
    """A streamed message put together as a client does it: text, calls, why it ended."""
    text, calls, ids, reason = None, [], [], None
    for chunk in client.chat.completions.create(**body, stream=True):
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        text = text if choice.delta.content is None else (text or "") + choice.delta.content
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                assert call.index == len(calls)
                ids.append(call.id)
                calls.append((call.function.name, ""))
            name, arguments = calls[call.index]
            calls[call.index] = (name, arguments + (call.function.arguments or ""))
    assert len(set(ids)) == len(ids)
    return text, calls, reason  # type: ignore[return-value]


def called(message: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def test_calls_are_read_from_the_text(client: openai.OpenAI, engine: ScriptedEngine, style: str) -> None:
    wanted = [("weather", BERN), ("now", "{}")]
    before = "" if style == "bare" else "Let me see."
    says(engine, f"{before}\n{written(style, wanted)}")
    choice = client.chat.completions.create(**ASK).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == (before or None)
    assert called(choice.message) == wanted
    assert all(len(call.id) == 9 for call in choice.message.tool_calls or [])
    assert streamed(client, **ASK) == (before or None, wanted, "tool_calls")


def test_one_call_only(client: openai.OpenAI, engine: ScriptedEngine, style: str) -> None:
    says(engine, written(style, [("weather", BERN), ("now", "{}")]))
    assert called(client.chat.completions.create(**ASK, parallel_tool_calls=False).choices[0].message) == [
        ("weather", BERN)
    ]
    assert streamed(client, **ASK, parallel_tool_calls=False)[1] == [("weather", BERN)]


def test_an_answer_without_calls(client: openai.OpenAI, engine: ScriptedEngine, style: str) -> None:
    says(engine, "It will rain.")
    message = client.chat.completions.create(**ASK).choices[0].message
    assert (message.content, message.tool_calls) == ("It will rain.", None)
    assert streamed(client, **ASK) == ("It will rain.", [], "stop")
    says(engine, written(style, [("now", "{}")]))
    for body in ({**ASK, "tool_choice": "none"}, {**ASK, "tools": None}):
        assert streamed(client, **body) == (written(style, [("now", "{}")]), [], "stop")


def test_a_call_that_is_cut(client: openai.OpenAI, engine: ScriptedEngine, style: str) -> None:
    says(engine, written(style, [("weather", BERN)]))
    cut = client.chat.completions.create(**ASK, max_tokens=len(engine.pieces) - 8).choices[0]
    assert cut.finish_reason == "length"
    [(name, arguments)] = called(cut.message)
    assert name == "weather"
    assert BERN.startswith(arguments)


def test_tools_and_their_answers_reach_the_model(
    client: openai.OpenAI, engine: ScriptedEngine, tokenizer: Tokenizer, style: str
) -> None:
    says(engine, "Yes.")
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": BERN}}
    messages: list[Any] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "wet"}]},
    ]
    client.chat.completions.create(**{**ASK, "messages": messages})
    client.chat.completions.create(**{**ASK, "messages": messages, "tools": None})
    texts = [
        tokenizer.decode(request.prompt_ids, skip_special=False).replace("\n", "")
        for request in engine.requests
    ]
    assert texts[0].startswith("Functions: weather now[user: Rain?][assistant: ")
    assert texts[0].endswith("[tool weather: wet][assistant:")
    assert BERN in texts[0]
    assert texts[1] == texts[0].removeprefix("Functions: weather now")


def test_what_the_model_said_can_be_sent_back(
    client: openai.OpenAI, engine: ScriptedEngine, style: str
) -> None:
    says(engine, written(style, [("weather", BERN)]))
    message = client.chat.completions.create(**ASK).choices[0].message
    assert message.tool_calls is not None
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "wet"}
    says(engine, "Yes.")
    again = client.chat.completions.create(**{**ASK, "messages": [*ASK["messages"], message, answer]})
    assert again.choices[0].message.content == "Yes."


@pytest.mark.parametrize(
    ("choice", "several", "names"),
    [
        ("required", True, {"weather", "now"}),
        ("required", False, {"weather", "now"}),
        ({"type": "function", "function": {"name": "weather"}}, True, {"weather"}),
    ],
)
def test_a_call_that_has_to_be_always_parses(
    random_client: openai.OpenAI, choice: Any, several: bool, names: set[str]
) -> None:
    """A random choice among what the grammar allows, from the models' own weights."""
    body = {**ASK, "tool_choice": choice, "parallel_tool_calls": several, "seed": 1, "max_tokens": 400}
    answer = random_client.chat.completions.create(**body, n=3)
    for found in answer.choices:
        assert found.finish_reason == "tool_calls"
        assert found.message.content is None
        calls = called(found.message)
        assert len(calls) == 1 or (several and choice == "required")
        for name, arguments in calls:
            assert name in names
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    assert streamed(random_client, **body) == (None, called(answer.choices[0].message), "tool_calls")


def test_an_answer_that_matches_or_a_call(random_client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    format_: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    kinds = set()
    for seed in range(6):
        choice = random_client.chat.completions.create(
            **ASK, response_format=format_, seed=seed, max_tokens=400, extra_body={"top_k": 8}
        ).choices[0]
        if choice.message.tool_calls:
            kinds.add("call")
        elif choice.finish_reason == "stop":
            assert json.loads(choice.message.content or "") == {"n": 1}
            kinds.add("answer")
    assert kinds


def test_special_tokens_are_text_only_where_they_mark_calls(
    random_client: openai.OpenAI, tokenizer: Tokenizer
) -> None:
    markers = {str(tokenizer.token_to_id(marker)): 100 for marker in MARKERS["tags"] + MARKERS["list"]}
    bias = {marker: value for marker, value in markers.items() if marker != "None"}
    if not bias:
        pytest.skip("this model marks calls with no token")
    body = {**ASK, "max_tokens": 3, "temperature": 0, "logit_bias": bias}
    with_tools = random_client.chat.completions.create(**body).choices[0].message.content or ""
    without = random_client.chat.completions.create(**{**body, "tools": None}).choices[0].message.content
    assert with_tools.startswith(("<", "["))
    assert without == ""


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no blanks"}}]}, "tools[0].function.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "grammar", "grammar": "start: 'a'"}}, "response_format"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}
                ],
                "tool_choice": "required",
            },
            "tools",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[]"}}
                        ],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_can_not_be_is_named(random_client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        random_client.chat.completions.create(**{**ASK, **change})
    assert refused.value.param == param


def test_a_model_that_was_not_made_for_tools(tiny_tokenizer: Tokenizer) -> None:
    with serving(ScriptedEngine(["hello"]), tiny_tokenizer) as server, client_of(server) as client:
        with pytest.raises(openai.BadRequestError, match="has no tools") as refused:
            client.chat.completions.create(**ASK)
        assert (refused.value.param, refused.value.code) == ("tools", "tools_not_supported")
        answer: Any = {"role": "tool", "tool_call_id": "x", "content": "y"}
        with pytest.raises(openai.BadRequestError, match="has no tools") as refused:
            client.chat.completions.create(model="tiny", messages=[answer])
        assert refused.value.param == "messages"
