"""What other services answer, through the guards: the same decision and text however a stream is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.serve.gateway.relay import EventRelay, relay_whole
from platen.serve.guards.actions import Origin
from platen.serve.guards.config import GuardsConfig
from platen.serve.guards.guards import Guards
from platen.serve.guards.upstream_screen import RelayedScreen
from platen.serve.metrics import Metrics

TEXT = "Write to alice.b+spam@mail.example.co.uk or call."
MASKED = "Write to [EMAIL] or call."
BEFORE = "Write to "
ORIGIN = Origin("someone", "big", "upstream")


def screen(action: str, choices: int = 1) -> RelayedScreen:
    guards = Guards(GuardsConfig.model_validate({"secrets": {"output": action}}), Metrics())
    return RelayedScreen(lambda: guards.outgoing(ORIGIN), choices)


def cut(text: str, places: Sequence[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(bounds)]


def sse(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def relayed(
    events: Sequence[dict[str, Any]], guard: RelayedScreen, *, done: bool = True
) -> tuple[list[Any], EventRelay]:
    """The events that a client gets, read as an SSE client reads them; `[DONE]` is one."""
    relay = EventRelay("big", hide_usage=False, screen=guard)
    pieces = [*map(sse, events), *([b"data: [DONE]\n\n"] if done else [])]
    sent = b""
    for piece in pieces:
        sent += relay.push(piece)
        if relay.withheld:
            break
    sent += relay.finish()
    data = [line[6:] for block in sent.split(b"\n\n") for line in block.splitlines() if line[:6] == b"data: "]
    assert sent.count(b"data: ") == len(data)
    return [orjson.loads(line) if line != b"[DONE]" else "[DONE]" for line in data], relay


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": {"content": []}}
    return {"id": "x", "object": "chat.completion.chunk", "model": "theirs", "choices": [choice]}


def choices(events: Sequence[Any], index: int = 0) -> list[dict[str, Any]]:
    return [c for event in events if event != "[DONE]" for c in event["choices"] if c["index"] == index]


def said(events: Sequence[Any], index: int = 0, key: str = "content") -> str:
    return "".join(choice["delta"].get(key) or "" for choice in choices(events, index))


@given(places=st.lists(st.integers(0, 100), max_size=12), ends_apart=st.booleans())
@settings(max_examples=60)
def test_a_stream_is_masked_alike_however_it_is_cut(places: list[int], ends_apart: bool) -> None:
    pieces = cut(TEXT, places)
    events = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in pieces[:-1]),
    ]
    events += (
        [chunk({"content": pieces[-1]}), chunk({}, "stop")]
        if ends_apart
        else [chunk({"content": pieces[-1]}, "stop")]
    )
    got, relay = relayed(events, screen("mask"))
    assert said(got) == MASKED
    assert (choices(got)[-1]["finish_reason"], got[-1], relay.complete) == ("stop", "[DONE]", True)
    assert all("logprobs" not in choice for choice in choices(got))
    assert {event["model"] for event in got[:-1]} == {"big"}


@given(places=st.lists(st.integers(0, 100), max_size=12))
@settings(max_examples=60)
def test_a_refused_stream_ends_before_what_was_found(places: list[int]) -> None:
    events = [*(chunk({"content": piece}) for piece in cut(TEXT, places)), chunk({}, "stop")]
    got, relay = relayed(events, screen("refuse"))
    assert said(got) == BEFORE
    last = choices(got)[-1]
    assert (last["finish_reason"], got[-1], relay.complete) == ("content_filter", "[DONE]", True)
    assert "content rules (secrets)" in last["delta"]["refusal"]


def test_another_choice_goes_on_when_one_is_refused() -> None:
    events = [
        chunk({"content": TEXT}, index=0),
        chunk({"content": "Fine"}, index=1),
        chunk({"content": " more"}, index=0),
        chunk({"content": ", thanks."}, index=1),
        chunk({}, "stop", index=0),
        chunk({}, "stop", index=1),
    ]
    got, relay = relayed(events, screen("refuse", choices=2))
    assert (said(got, 0), said(got, 1)) == (BEFORE, "Fine, thanks.")
    assert [c["finish_reason"] for c in choices(got, 0)][-1] == "content_filter"
    assert [c["finish_reason"] for c in choices(got, 1)][-1] == "stop"
    assert not relay.withheld


def test_the_arguments_of_calls_are_masked() -> None:
    def call(text: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}

    events = [chunk(call('{"to": "a@b.exa')), chunk(call('mple"}')), chunk({}, "tool_calls")]
    got, _ = relayed(events, screen("mask"))
    texts = [
        c["delta"]["tool_calls"][0]["function"]["arguments"]
        for c in choices(got)
        if "tool_calls" in c["delta"]
    ]
    assert "".join(texts) == '{"to": "[EMAIL]"}'


def test_what_is_held_back_at_the_end_of_a_stream_is_not_lost() -> None:
    got, _ = relayed([chunk({"content": "a@b"})], screen("mask"))  # nobody says that the choice is over
    assert (said(got), got[-1]) == ("a@b", "[DONE]")


def test_completions_are_masked() -> None:
    def piece(text: str, reason: str | None = None) -> dict[str, Any]:
        return {"model": "theirs", "choices": [{"index": 0, "text": text, "finish_reason": reason}]}

    got, _ = relayed([piece("mail a@b.exam"), piece("ple now"), piece("", "length")], screen("mask"))
    assert "".join(choice["text"] for choice in choices(got)) == "mail [EMAIL] now"
    assert choices(got)[-1]["finish_reason"] == "length"


def test_data_that_cannot_be_read_is_not_passed_on() -> None:
    relay = EventRelay("big", hide_usage=False, screen=screen("mask"))
    with pytest.raises(ValueError, match="not JSON"):
        relay.push(b"data: call a@b.example\n\n")


# -- responses -----------------------------------------------------------------------------------------


def response_events(pieces: Sequence[str]) -> list[dict[str, Any]]:
    text = "".join(pieces)
    at = {"item_id": "m", "output_index": 0, "content_index": 0}
    content = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    response = {"id": "r", "object": "response", "model": "theirs", "status": "in_progress", "output": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}},
        *({"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces),
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": content},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response | {"status": "completed", "output": [item]}},
    ]
    return json.loads(json.dumps([event | {"sequence_number": n} for n, event in enumerate(events)]))  # type: ignore[no-any-return]


@given(places=st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=40)
def test_a_streamed_response_is_masked_in_all_its_events(places: list[int]) -> None:
    got, relay = relayed(response_events(cut(TEXT, places)), screen("mask"), done=False)
    assert "".join(e["delta"] for e in got if e["type"] == "response.output_text.delta") == MASKED
    assert [e["text"] for e in got if e["type"] == "response.output_text.done"] == [MASKED]
    assert got[-1]["response"]["output"][0]["content"][0]["text"] == MASKED
    assert [event["sequence_number"] for event in got] == list(range(len(got)))
    assert (got[-1]["type"], relay.complete) == ("response.completed", True)
    assert "alice" not in json.dumps(got)


@given(places=st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=40)
def test_a_refused_response_is_incomplete(places: list[int]) -> None:
    got, relay = relayed(response_events(cut(TEXT, places)), screen("refuse"), done=False)
    assert "".join(e["delta"] for e in got if e["type"] == "response.output_text.delta") == BEFORE
    last = got[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert last["response"]["output"][0]["content"][0]["text"] == BEFORE
    assert relay.complete


# -- whole answers -------------------------------------------------------------------------------------


def whole(document: dict[str, Any], action: str) -> dict[str, Any]:
    body = relay_whole(json.dumps(document).encode(), "big", screen(action)).body
    return orjson.loads(body)  # type: ignore[no-any-return]


def test_a_whole_chat() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"to": "a@b.example"}'}}
    message = {"role": "assistant", "content": TEXT, "tool_calls": [call]}
    document = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": {}}]}
    masked = whole(document, "mask")["choices"][0]
    assert masked["message"]["content"] == MASKED
    assert masked["message"]["tool_calls"][0]["function"]["arguments"] == '{"to": "[EMAIL]"}'
    assert "logprobs" not in masked
    refused = whole(document, "refuse")["choices"][0]
    assert (refused["message"]["content"], refused["finish_reason"]) == (BEFORE, "content_filter")
    assert "tool_calls" not in refused["message"]
    assert "secrets" in refused["message"]["refusal"]


def test_a_whole_response() -> None:
    document = response_events([TEXT])[-1]["response"]
    assert whole(document, "mask")["output"][0]["content"][0]["text"] == MASKED
    refused = whole(document, "refuse")
    assert (refused["status"], refused["output"][0]["content"][0]["text"]) == ("incomplete", BEFORE)


def test_vectors_are_left_alone() -> None:
    document = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "big"}
    assert whole(document, "mask") == document
