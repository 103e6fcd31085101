"""The official OpenAI client, unmodified, against the running server."""

from __future__ import annotations

import json

import openai
import pytest

from platen.models.arch.decoder import Decoder
from platen.tokens.tokenizer import Tokenizer
from tests.engines.torch.test_torch_engine import slowed
from tests.serve.running import RunningServer, ScriptedEngine, wait_until

GREEDY = {"model": "tiny", "temperature": 0}


def test_list_and_retrieve(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    model = client.models.retrieve("tiny")
    assert (model.id, model.object, model.created) == ("tiny", "model", 1_700_000_000)


def test_complete(client: openai.OpenAI, tiny_tokenizer: Tokenizer) -> None:
    answer = client.completions.create(**GREEDY, prompt="To be", max_tokens=12)
    choice = answer.choices[0]
    assert answer.object == "text_completion"
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tiny_tokenizer.encode("To be"))
    assert answer.usage.completion_tokens == 12
    by_ids = client.completions.create(**GREEDY, prompt=tiny_tokenizer.encode("To be"), max_tokens=12)
    assert by_ids.choices[0].text == choice.text
    assert client.completions.create(**GREEDY, prompt="To be").usage.completion_tokens == 16  # type: ignore[union-attr]


def test_several_prompts_and_choices_come_back_in_order(client: openai.OpenAI) -> None:
    singly = [
        client.completions.create(model="tiny", prompt=p, max_tokens=8, seed=seed).choices[0].text
        for p in ("To be", "or not")
        for seed in (5, 6)
    ]
    answer = client.completions.create(model="tiny", prompt=["To be", "or not"], n=2, max_tokens=8, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == singly
    assert len(set(singly)) == 4


def test_stream_gives_the_same_text_piece_by_piece(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt="To be", max_tokens=30)
    pieces = list(
        client.completions.create(
            **GREEDY, prompt="To be", max_tokens=30, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert len(pieces) > 10
    assert [piece.choices[0].finish_reason for piece in pieces[-3:-1]] == [None, "length"]
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    assert len({piece.id for piece in pieces}) == 1


def test_a_stream_of_several_choices(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="To be", n=3, max_tokens=10, seed=1)
    texts = [""] * 3
    for piece in client.completions.create(
        model="tiny", prompt="To be", n=3, max_tokens=10, seed=1, stream=True
    ):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_stop_sequences(client: openai.OpenAI) -> None:
    free = client.completions.create(**GREEDY, prompt="To be", max_tokens=30).choices[0].text
    stop = free[8:11]
    expected = free[: free.index(stop)]
    answer = client.completions.create(**GREEDY, prompt="To be", max_tokens=30, stop=[stop, "never said"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    streamed = client.completions.create(**GREEDY, prompt="To be", max_tokens=30, stop=stop, stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == expected


def test_echo_and_logprobs(client: openai.OpenAI, tiny_tokenizer: Tokenizer) -> None:
    answer = client.completions.create(**GREEDY, prompt="To be", max_tokens=3, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith("To be")
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens is not None
    count = len(tiny_tokenizer.encode("To be"))
    assert "".join(scores.tokens[:count]) == "To be"
    assert len(scores.tokens) == count + 3
    assert scores.token_logprobs is not None
    assert scores.token_logprobs[0] is None
    assert all(value <= 0 for value in scores.token_logprobs[1:])
    assert scores.text_offset[: count + 1] == [len("".join(scores.tokens[:i])) for i in range(count + 1)]  # type: ignore[index]
    greedy_token, best = scores.tokens[count], scores.top_logprobs[count]  # type: ignore[index]
    assert max(best, key=best.__getitem__) == greedy_token
    scored = client.completions.create(**GREEDY, prompt="To be", max_tokens=0, echo=True, logprobs=0)
    assert scored.choices[0].text == "To be"
    assert scored.choices[0].logprobs.token_logprobs == pytest.approx(scores.token_logprobs[:count])  # type: ignore[union-attr]


def test_tokens_that_are_parts_of_characters(client: openai.OpenAI, tiny_tokenizer: Tokenizer) -> None:
    text = "né 🦜🦊x"
    ids = tiny_tokenizer.encode(text)
    scores = (
        client.completions.create(**GREEDY, prompt=["be", text], max_tokens=0, echo=True, logprobs=20)
        .choices[1]
        .logprobs
    )
    assert scores is not None
    assert scores.tokens is not None
    starts = [len(b"".join(map(tiny_tokenizer.token_bytes, ids[:i]))) for i in range(len(ids))]
    assert scores.text_offset == [len(text.encode()[:start].decode(errors="ignore")) for start in starts]
    assert scores.top_logprobs is not None
    for token, value, top in zip(
        scores.tokens[1:],
        scores.token_logprobs[1:],  # type: ignore[index]
        scores.top_logprobs[1:],
        strict=True,
    ):
        assert len(top) >= 20  # different tokens have different names
        assert top[token] == value  # the chosen one is always among them
    chat = client.chat.completions.create(
        **GREEDY, messages=[{"role": "user", "content": text}], max_tokens=30, logprobs=True
    ).choices[0]
    data = b"".join(bytes(score.bytes or []) for score in chat.logprobs.content)  # type: ignore[union-attr, arg-type]
    assert data.decode(errors="replace") == chat.message.content


def test_an_empty_prompts_echo_has_no_place_for_what_begins_it(client: openai.OpenAI) -> None:
    choice = client.completions.create(**GREEDY, prompt="", max_tokens=2, echo=True, logprobs=0).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.tokens[0] == "<|end|>"
    assert choice.logprobs.text_offset[:2] == [0, 0]  # type: ignore[index]
    assert not choice.text.startswith("<|end|>")


def test_a_longer_text_can_be_cut_to_its_end(client: openai.OpenAI, tiny_tokenizer: Tokenizer) -> None:
    long = "To be, or not to be. " * 30
    ids = tiny_tokenizer.encode(long)
    expected = client.completions.create(**GREEDY, prompt=ids[-100:], max_tokens=9).choices[0].text
    for prompt in (long, [long], ids, [ids]):
        answer = client.completions.create(
            **GREEDY,
            prompt=prompt,
            max_tokens=9,
            echo=True,
            extra_body={"truncate_prompt_tokens": 100},
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 100
        assert answer.choices[0].text == tiny_tokenizer.decode(ids[-100:]) + expected


def test_a_longer_conversation_loses_its_oldest_turns(client: openai.OpenAI) -> None:
    turns = [{"role": "user", "content": f"to be {i}"} for i in range(60)]
    with pytest.raises(openai.BadRequestError, match="context window"):
        client.chat.completions.create(**GREEDY, messages=turns, max_tokens=5)  # type: ignore[arg-type]
    short = client.chat.completions.create(**GREEDY, messages=turns[-3:], max_tokens=5)  # type: ignore[arg-type]
    assert short.usage is not None
    cut = client.chat.completions.create(
        **GREEDY,
        messages=turns,  # type: ignore[arg-type]
        max_tokens=5,
        extra_body={"truncate_prompt_tokens": short.usage.prompt_tokens},
    )
    assert cut.choices[0].message == short.choices[0].message
    assert cut.usage is not None
    assert cut.usage.prompt_tokens == short.usage.prompt_tokens


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **GREEDY,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "To "}, {"type": "text", "text": "be"}]},
        ],
        max_completion_tokens=10,
        user="someone",
        metadata={"a": "b"},
        store=False,
    )
    choice = answer.choices[0]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    same = client.completions.create(**GREEDY, prompt="Be brief.\n\nTo be", max_tokens=10)
    assert choice.message.content == same.choices[0].text
    older = client.chat.completions.create(
        **GREEDY,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be"}],
        max_tokens=10,
    )
    assert older.choices[0].message.content == choice.message.content


def test_chat_stream(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "To be"}]
    whole = client.chat.completions.create(**GREEDY, messages=messages, max_tokens=20, logprobs=True)  # type: ignore[arg-type]
    chunks = list(
        client.chat.completions.create(
            **GREEDY,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=20,
            stream=True,
            logprobs=True,
            top_logprobs=3,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        == whole.choices[0].message.content
    )
    scores = [score for chunk in chunks[:-1] for score in chunk.choices[0].logprobs.content or []]  # type: ignore[union-attr]
    assert [score.token for score in scores] == [s.token for s in whole.choices[0].logprobs.content]  # type: ignore[union-attr]
    assert all(score.top_logprobs[0].token == score.token for score in scores)
    assert chunks[-1].usage == whole.usage


def test_without_a_limit_the_window_ends_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, messages=[{"role": "user", "content": "To be"}])
    assert answer.usage is not None
    assert answer.usage.total_tokens == 128
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_hanging_up_on_a_stream_cancels(
    kind: str, scripted: ScriptedEngine, scripted_client: openai.OpenAI
) -> None:
    scripted.seconds_per_piece = 0.02
    if kind == "chat":
        stream = scripted_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
    else:
        stream = scripted_client.completions.create(model="tiny", prompt="hi", max_tokens=500, stream=True)  # type: ignore[assignment]
    next(iter(stream))
    assert len(scripted.running) == 1
    stream.close()
    wait_until(lambda: not scripted.running)
    assert {request.request_id for request in scripted.requests} == scripted.cancelled


def test_hanging_up_on_the_torch_engine_frees_it(server: RunningServer, client: openai.OpenAI) -> None:
    before = server.engine.stats().tokens_generated
    stream = client.completions.create(
        model="tiny", prompt="To be", n=4, max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.engine.stats().running == server.engine.stats().waiting == 0)
    assert server.engine.stats().tokens_generated - before < 400


@pytest.mark.parametrize("streaming", [True, False])
def test_hanging_up_in_the_queue_gives_the_place_back(
    tiny_llama: Decoder, server: RunningServer, client: openai.OpenAI, streaming: bool
) -> None:
    stats = server.engine.stats
    with (
        slowed(tiny_llama, 0.02),
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=0.3) as hasty,
    ):
        running = client.completions.create(
            model="tiny", prompt="x", n=4, max_tokens=120, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(running))
        with pytest.raises(openai.APITimeoutError):
            hasty.completions.create(model="tiny", prompt="x", n=3, stream=streaming)
        wait_until(lambda: stats().waiting == 0)
        assert stats().running == 4
        running.close()
        wait_until(lambda: stats().running == 0)


def test_giving_up_on_an_answer_cancels(scripted: ScriptedEngine, scripted_client: openai.OpenAI) -> None:
    scripted.seconds_per_piece = 0.05
    with pytest.raises(openai.APITimeoutError):
        scripted_client.completions.create(model="tiny", prompt="hi", max_tokens=500, timeout=0.3)
    wait_until(lambda: not scripted.running)
    assert scripted.cancelled


def test_bad_requests_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="x", temperature=3)
    assert refused.value.param == "temperature"
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert (refused.value.param, refused.value.code) == ("tools", "tools_not_supported")
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="x", extra_body={"made_up": 1})
    assert (refused.value.param, refused.value.code) == ("made_up", "unknown_parameter")


def test_a_prompt_longer_than_the_window(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="1 " * 200)
    assert refused.value.code == "context_length_exceeded"
    assert "the context window is 128" in str(refused.value)


def test_an_unknown_model(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.completions.create(model="gpt-9", prompt="x"),
        lambda: client.models.retrieve("gpt-9"),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        assert "tiny" in str(refused.value)


def test_a_full_server(scripted: ScriptedEngine, scripted_client: openai.OpenAI) -> None:
    scripted.full_for = 2.4
    with pytest.raises(openai.RateLimitError) as refused:
        scripted_client.completions.create(model="tiny", prompt="x")
    assert refused.value.response.headers["retry-after"] == "3"
    assert refused.value.code == "overloaded"


def test_a_failure_before_and_inside_a_stream(
    scripted: ScriptedEngine, scripted_client: openai.OpenAI
) -> None:
    scripted.break_after = 2
    with pytest.raises(openai.InternalServerError) as broken:
        scripted_client.completions.create(model="tiny", prompt="x")
    assert broken.value.status_code == 500
    assert broken.value.type == "server_error"
    stream = scripted_client.completions.create(model="tiny", prompt="x", stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="failed while it worked"):
        texts += [piece.choices[0].text for piece in stream]
    assert scripted_client.models.retrieve("tiny").id == "tiny"


def test_a_stopping_server_refuses_new_work_and_finishes_the_old(
    scripted: ScriptedEngine, scripted_server: RunningServer, scripted_client: openai.OpenAI
) -> None:
    scripted.seconds_per_piece = 0.04
    stream = scripted_client.completions.create(model="tiny", prompt="x", max_tokens=500, stream=True)
    text = next(iter(stream)).choices[0].text
    scripted_server.state.start_draining(20)
    with pytest.raises(openai.InternalServerError) as refused:
        scripted_client.completions.create(model="tiny", prompt="x")
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) >= 1
    text += "".join(piece.choices[0].text for piece in stream)
    assert text == "".join(scripted.pieces)


def test_what_outlasts_the_drain_ends_with_an_error(
    scripted: ScriptedEngine, scripted_server: RunningServer, scripted_client: openai.OpenAI
) -> None:
    scripted.seconds_per_piece = 0.2
    stream = scripted_client.completions.create(model="tiny", prompt="x", max_tokens=500, stream=True)
    next(iter(stream))
    scripted_server.state.start_draining(0.2)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)


def test_answers_that_match_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "A number?"}],
        max_completion_tokens=60,
        seed=3,
        temperature=0.5,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    assert answer.choices[0].finish_reason == "stop"
    assert 0 <= json.loads(answer.choices[0].message.content or "")["n"] <= 9
    chosen = client.completions.create(
        model="tiny",
        prompt="To be",
        n=3,
        extra_body={"response_format": {"type": "regex", "pattern": "(yes|no)"}},
    )
    assert {choice.text for choice in chosen.choices} <= {"yes", "no"}


def test_a_prompt_seen_before_is_read_from_the_cache(client: openai.OpenAI) -> None:
    prompt = "Whether 'tis nobler in the mind " * 3
    for expected in (False, True):
        answer = client.completions.create(**GREEDY, prompt=prompt, max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert bool(answer.usage.prompt_tokens_details.cached_tokens) is expected
