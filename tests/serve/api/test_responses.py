"""`/v1/responses` with the official OpenAI client, streaming and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until
from tests.toolmodels import MARKERS, SCHEMAS, TEMPLATES, tokenizer_with, written

GREEDY: Any = {"model": "tiny", "temperature": 0, "max_output_tokens": 12}
TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": schema, "strict": None}
    for name, schema in SCHEMAS.items()
]
BERN = '{"city": "Bern", "days": 2}'


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([])


@pytest.fixture
def tools_client(engine: ScriptedEngine) -> Iterator[openai.OpenAI]:
    tokenizer = tokenizer_with(template=TEMPLATES["tags"], special=MARKERS["tags"])
    with (
        serving(engine, tokenizer) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def says(engine: ScriptedEngine, text: str) -> None:
    engine.pieces = [text[at : at + 3] for at in range(0, len(text), 3)]


def test_a_text(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny", temperature=0, max_tokens=12, messages=[{"role": "user", "content": "To be"}]
    )
    answer = client.responses.create(**GREEDY, input="To be", store=False, metadata={"a": "b"})
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.object, answer.status, answer.model) == ("response", "incomplete", "tiny")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert chat.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    assert answer.usage.total_tokens == chat.usage.total_tokens
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (0, 1, 12)
    assert (answer.tool_choice, answer.tools, answer.metadata) == ("auto", [], {"a": "b"})
    assert answer.to_dict()["store"] is False
    [item] = answer.output
    assert item.type == "message"
    assert (item.role, item.status) == ("assistant", "incomplete")


def test_messages_and_instructions(client: openai.OpenAI) -> None:
    first = client.responses.create(**GREEDY, instructions="Be brief.", input="To be")
    same: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "To "}, {"type": "input_text", "text": "be"}],
        },
    ]
    again = client.responses.create(**GREEDY, input=same)
    assert again.output_text == first.output_text
    chat = client.chat.completions.create(
        model="tiny",
        temperature=0,
        max_tokens=12,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be"}],
    )
    assert first.output_text == chat.choices[0].message.content
    both = client.responses.create(**GREEDY, instructions="Be brief.", input=[*same, *first.output])  # type: ignore[list-item]
    assert both.usage is not None
    assert again.usage is not None
    assert both.usage.input_tokens > again.usage.input_tokens


def test_the_events_of_a_stream(client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY, input="To be")
    events = list(client.responses.create(**GREEDY, input="To be", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert len(kinds) > 12
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert (first.response.status, first.response.output) == ("in_progress", [])
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    with client.responses.stream(**GREEDY, input="To be") as stream:
        for _ in stream:
            pass


def test_an_answer_that_ends_by_itself(scripted: ScriptedEngine, scripted_client: openai.OpenAI) -> None:
    scripted.pieces = ["Good ", "day"]
    with scripted_client.responses.stream(model="tiny", input="Hello") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert (final.status, final.output_text) == ("completed", "Good day")
    scripted.pieces = []
    assert scripted_client.responses.create(model="tiny", input="Hello").output_text == ""


def test_an_answer_that_matches_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    format_: Any = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    body: Any = {"model": "tiny", "temperature": 0.5, "max_output_tokens": 60}
    answer = client.responses.create(**body, input="A number?", text={"format": format_})
    assert answer.text is not None
    assert answer.text.to_dict()["format"] == {**format_, "description": None}
    if answer.status == "completed":
        assert 0 <= json.loads(answer.output_text)["n"] <= 9
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(
            **body, input="x", text={"format": {**format_, "schema": {"type": "nonsense"}}}
        )
    assert (refused.value.param, refused.value.code) == ("text.format", "invalid_grammar")


def test_calls_of_functions(tools_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    says(engine, "Let me see.\n" + written("tags", [("weather", BERN), ("now", "{}")]))
    answer = tools_client.responses.create(model="tiny", input="Rain?", tools=TOOLS)
    assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
    assert answer.output_text == "Let me see."
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [("weather", BERN), ("now", "{}")]
    assert answer.status == "completed"

    events = list(tools_client.responses.create(model="tiny", input="Rain?", tools=TOOLS, stream=True))
    grown = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in grown if event.output_index == 1) == BERN
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [BERN, "{}"]
    assert sum(event.type == "response.output_item.done" for event in events) == 3


def test_what_came_of_a_call_is_sent_back(tools_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    says(engine, "I look.\n" + written("tags", [("weather", BERN)]))
    first = tools_client.responses.create(model="tiny", input="Rain?", tools=TOOLS)
    call = first.output[1]
    assert call.type == "function_call"
    says(engine, "Yes.")
    items: list[Any] = [
        {"role": "user", "content": "Rain?"},
        *first.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "wet"},
    ]
    second = tools_client.responses.create(model="tiny", input=items, tools=TOOLS)
    assert second.output_text == "Yes."
    tokenizer = tokenizer_with(template=TEMPLATES["tags"], special=MARKERS["tags"])
    prompt = tokenizer.decode(engine.requests[-1].prompt_ids, skip_special=False)
    assert f"[assistant: I look.\n{written('tags', [('weather', BERN)])}][tool weather: wet]" in prompt


def test_an_input_that_is_too_long(client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": f"to be {i}"} for i in range(60)]
    with pytest.raises(openai.BadRequestError, match="context window") as refused:
        client.responses.create(**GREEDY, input=turns)
    assert refused.value.param == "input"
    cut = client.responses.create(**GREEDY, input=turns, truncation="auto")
    assert cut.usage is not None
    assert 64 < cut.usage.input_tokens <= 128 - 12


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].name"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_can_not_be_is_named(server: RunningServer, change: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{server.url}/v1/responses", json={"model": "tiny", "input": "x", **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_failures_on_the_way(scripted: ScriptedEngine, scripted_client: openai.OpenAI) -> None:
    scripted.break_after = 2
    with pytest.raises(openai.InternalServerError):
        scripted_client.responses.create(model="tiny", input="x")
    events = list(scripted_client.responses.create(model="tiny", input="x", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert (last.response.error.code, "failed while" in last.response.error.message) == ("server_error", True)


def test_a_stream_on_the_wire(scripted_server: RunningServer) -> None:
    body = {"model": "tiny", "input": "x", "stream": True, "max_output_tokens": 2}
    response = httpx.post(f"{scripted_server.url}/v1/responses", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    for block in response.text.strip().split("\n\n"):
        event, data = block.split("\n")
        assert event.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]


def test_hanging_up_cancels(scripted: ScriptedEngine, scripted_client: openai.OpenAI) -> None:
    scripted.seconds_per_piece = 0.02
    stream = scripted_client.responses.create(model="tiny", input="hi", stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: not scripted.running)
    assert scripted.cancelled
