"""Instruction data in any of its shapes becomes the same conversations; what is none says why."""

from __future__ import annotations

from typing import Any

import pytest

from platen.data.instruct.shapes import ShapeError, read_shape
from platen.prompts.messages import Message

ASKED, INPUT, ANSWER = "Translate this sentence to Japanese.", "Good morning.", "おはようございます。"
WITH_INPUT = (Message("user", ASKED, INPUT), Message("assistant", ANSWER))
PLAIN = (Message("user", "Name a colour."), Message("assistant", "Blue."))


@pytest.mark.parametrize(
    ("record", "shape", "conversation"),
    [
        ({"instruction": ASKED, "input": INPUT, "response": ANSWER}, "instruct", WITH_INPUT),
        (
            {"instruction": ASKED, "context": INPUT, "response": ANSWER, "category": "x"},
            "instruct",
            WITH_INPUT,
        ),
        (
            {"text": f"###Instruction\n{ASKED}\n###Input\n{INPUT}\n###Response\n{ANSWER}\n"},
            "instruct",
            WITH_INPUT,
        ),
        ({"text": "### Instruction: Name a colour.\n\n### Response: Blue."}, "instruct", PLAIN),
        ({"instruction": ASKED, "input": INPUT, "output": ANSWER}, "alpaca", WITH_INPUT),
        ({"instruction": "Name a colour.", "input": "", "output": "Blue."}, "alpaca", PLAIN),
        ({"instruction": "Name a colour.", "output": "Blue."}, "evol-instruct", PLAIN),
        (
            {
                "idn": "7",
                "conversations": [
                    {"from": "human", "value": "Name a colour."},
                    {"from": "gpt", "value": "Blue."},
                ],
            },
            "evol-instruct",
            PLAIN,
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Name a colour."},
                    {"from": "gpt", "value": "Blue."},
                    {"from": "human", "value": "Thanks."},  # nothing answers it
                ]
            },
            "sharegpt",
            PLAIN,
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
                    {"role": "assistant", "content": "Blue."},
                ]
            },
            "openai",
            (Message("system", "Be brief."), *PLAIN),
        ),
        ({"prompt": "Name a colour.", "completion": " Blue."}, "self-instruct", PLAIN),
    ],
)
def test_each_shape_gives_the_conversation(
    record: dict[str, Any], shape: str, conversation: tuple[Message, ...]
) -> None:
    assert read_shape(record) == (shape, [conversation])


def test_a_self_instruct_task_gives_a_conversation_an_instance() -> None:
    instances = [{"input": "<noinput>", "output": "Blue."}, {"input": "warm ones", "output": "Red."}]
    record = {"id": "seed_task_1", "instruction": "Name a colour.", "instances": instances}
    warm = (Message("user", "Name a colour.", "warm ones"), Message("assistant", "Red."))
    assert read_shape(record) == ("self-instruct", [PLAIN, warm])


def test_a_stated_shape_is_not_guessed() -> None:
    record = {
        "instruction": "Name a colour.",
        "input": "",
        "output": "Blue.",
        "prompt": "x",
        "completion": "y",
    }
    assert read_shape(record, "self-instruct")[1] == [(Message("user", "x"), Message("assistant", "y"))]


def chat(*turns: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "not an object"),
        ({"question": "?", "reply": "!"}, "no known shape: its keys are question, reply"),
        ({"instruction": "Name a colour.", "output": None}, "no text under 'output'"),
        ({"instruction": "", "output": "Blue."}, "turn 1 is empty"),
        (chat(("user", "Name a colour.")), "no answer in it"),
        (chat(("assistant", "Blue.")), "turn 1 is by assistant, where user should speak"),
        (chat(("user", "a"), ("user", "b"), ("assistant", "c")), "turn 2 is by user"),
        (chat(("narrator", "a"), ("assistant", "c")), "'narrator', which is no known role"),
        (chat(("user", [{"type": "image_url"}]), ("assistant", "c")), "a part that is no text"),
        ({"messages": []}, "'messages' is no list of turns"),
        ({"conversations": "hello"}, "'conversations' is no list of turns"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "calls a tool"),
        ({"text": "###Input\nx\n###Response\ny"}, "###Input without an ###Instruction"),
    ],
)
def test_what_is_no_conversation_says_why(record: object, reason: str) -> None:
    with pytest.raises(ShapeError, match=reason.replace("[", r"\[")):
        read_shape(record)
