"""Completions beyond a plain continuation: what stands in the middle, and the best of several."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import openai
import pytest

from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import ScriptedEngine, serving
from tests.toolmodels import tokenizer_with

MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"]


@pytest.fixture
def code_tokenizer() -> Tokenizer:
    return tokenizer_with(special=MARKS)


@pytest.fixture
def code_client(scripted: ScriptedEngine, code_tokenizer: Tokenizer) -> Iterator[openai.OpenAI]:
    with (
        serving(scripted, code_tokenizer) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_what_stands_in_the_middle(
    code_client: openai.OpenAI, scripted: ScriptedEngine, code_tokenizer: Tokenizer
) -> None:
    scripted.pieces = ["x):\n", "  y = x\n"]
    body: Any = {"model": "tiny", "suffix": "  return y\n", "extra_body": {"stop_token_ids": [7]}}
    answer = code_client.completions.create(**body, prompt=["def f(", "def g("])
    assert [choice.text for choice in answer.choices] == ["x):\n  y = x\n"] * 2
    prompts = [code_tokenizer.decode(r.prompt_ids, skip_special=False) for r in scripted.requests]
    assert prompts == [f"<|fim_prefix|>def {name}(<|fim_suffix|>  return y\n<|fim_middle|>" for name in "fg"]
    ends = scripted.requests[0].sampling.stop_token_ids
    assert ends == (7, *(code_tokenizer.token_to_id(mark) for mark in MARKS))
    streamed = code_client.completions.create(**body, prompt="def f(", stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == "x):\n  y = x\n"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(r.prompt_ids) for r in scripted.requests[:2])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"),
        ({"extra_body": {"truncate_prompt_tokens": 5}}, "truncate_prompt_tokens"),
        ({"prompt": [5, 6]}, "prompt"),
    ],
)
def test_what_does_not_go_with_a_suffix(
    code_client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    body: Any = {"model": "tiny", "prompt": "a", "suffix": "b", **change}
    with pytest.raises(openai.BadRequestError) as refused:
        code_client.completions.create(**body)
    assert refused.value.param == param


def test_a_model_that_can_not_fill_in(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="can't fill in the middle") as refused:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert refused.value.param == "suffix"
    assert client.completions.create(model="tiny", prompt="a", suffix="", max_tokens=1).choices


def test_a_token_that_ends_the_text(client: openai.OpenAI) -> None:
    body: Any = {"model": "tiny", "prompt": "To be", "temperature": 0, "max_tokens": 20, "logprobs": 0}
    free = client.completions.create(**body).choices[0]
    assert free.logprobs is not None
    assert free.logprobs.tokens is not None
    fourth = free.logprobs.tokens[3]
    ids = tokens_of(client, fourth)
    stopped = client.completions.create(**body, extra_body={"stop_token_ids": ids})
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == free.logprobs.tokens.index(fourth) + 1
    assert free.text.startswith(stopped.choices[0].text)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**body, extra_body={"stop_token_ids": [999_999], "min_tokens": 3})
    assert refused.value.param == "stop_token_ids"


def tokens_of(client: openai.OpenAI, token: str) -> list[int]:
    answer = client.post(
        str(client.base_url).replace("/v1/", "/tokenize"), body={"prompt": token}, cast_to=dict[str, Any]
    )
    assert answer["count"] == 1
    return list(answer["tokens"])


def test_the_best_of_several(client: openai.OpenAI) -> None:
    """Among the answers that each seed gives, those of the highest mean log-probability of a token."""
    body: Any = {"model": "tiny", "max_tokens": 8, "seed": 5, "temperature": 1.5}
    prompts = ["To be", "or not"]
    every = client.completions.create(**body, prompt=prompts, n=5, logprobs=0)
    best = client.completions.create(**body, prompt=prompts, n=2, best_of=5)

    def quality(choice: Any) -> float:
        return fmean(choice.logprobs.token_logprobs)

    expected = [
        choice.text
        for first in (0, 5)
        for choice in sorted(every.choices[first : first + 5], key=quality, reverse=True)[:2]
    ]
    assert [choice.text for choice in best.choices] == expected
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert [choice.logprobs for choice in best.choices] == [None] * 4
    assert best.usage == every.usage
