"""The torch engine against transformers, against itself in other company, and under every early end."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from platen.engines.protocol import (
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from platen.models.arch.decoder import Decoder
from platen.tokens.tokenizer import TextStream, Tokenizer
from tests.engines.torch_engine import TorchEngine


@dataclass
class Result:
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    events: list[TokenEvent] = field(default_factory=list)

    @property
    def last(self) -> TokenEvent:
        return self.events[-1]


async def collect(stream: AsyncIterator[TokenEvent]) -> Result:
    result = Result()
    async for event in stream:
        result.events.append(event)
        result.token_ids += event.token_ids
        result.text += event.text
    return result


class Make:
    """Opens engines over the tiny model."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @asynccontextmanager
    async def __call__(self, **options: Any) -> AsyncIterator[TorchEngine]:
        engine = TorchEngine(
            options.pop("model", self.model),
            new_detokenizer=lambda prompt_ids: TextStream(self.tokenizer, after=prompt_ids),
            token_text=self.tokenizer.token_text,
            **options,
        )
        try:
            yield engine
        finally:
            await engine.close()


@pytest.fixture
def make(tiny_llama: Decoder, tiny_tokenizer: Tokenizer) -> Make:
    return Make(tiny_llama, tiny_tokenizer)


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start * 37 + i * 11) % 319 + 1 for i in range(length)]


def greedy(count: int | None, **options: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, **options)


@contextmanager
def slowed(model: Decoder, seconds: float) -> Iterator[None]:
    """Makes each forward pass of the model take at least this long."""
    handle = model.model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def held(model: Decoder) -> Iterator[threading.Event]:
    """Keeps the model's first forward pass waiting until the event is set."""
    go = threading.Event()

    def wait(*_: object) -> None:
        go.wait(10)

    handle = model.register_forward_pre_hook(wait)
    try:
        yield go
    finally:
        go.set()
        handle.remove()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.002)


@pytest.fixture(scope="session")
def reference(tiny_llama: Decoder) -> Callable[[list[int], int], list[int]]:
    """Greedy continuation by transformers' own generate, without and end-of-text."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**tiny_llama.config.to_hf()))
    model.load_state_dict(tiny_llama.state_dict())
    settings = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)

    def generate(ids: list[int], count: int) -> list[int]:
        settings.max_new_tokens = count
        output = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(), generation_config=settings
        )
        return [int(i) for i in output[0, len(ids) :]]

    return generate


PROMPTS = [prompt(length, start) for start, length in enumerate([1, 2, 5, 9, 17, 30, 33, 48, 64, 90])]


async def test_greedy_equals_transformers_generate_together(
    make: Make, reference: Callable[[list[int], int], list[int]]
) -> None:
    async with make(max_concurrent=4, prefill_chunk=16) as engine:
        results = await asyncio.gather(
            *(
                collect(engine.submit(GenerationRequest(f"r{i}", ids, greedy(20 + i))))
                for i, ids in enumerate(PROMPTS)
            )
        )
    for i, (ids, result) in enumerate(zip(PROMPTS, results, strict=True)):
        assert result.token_ids == reference(ids, 20 + i)
        assert result.text == make.tokenizer.decode(result.token_ids)
        assert result.last.finish_reason == "length"
        assert result.last.usage is not None
        assert (result.last.usage.prompt_tokens, result.last.usage.completion_tokens) == (len(ids), 20 + i)


async def test_a_seeded_request_reads_the_same_alone_and_in_company(make: Make) -> None:
    params = [
        SamplingParams(temperature=t, top_k=k, top_p=p, seed=seed, max_tokens=40)
        for seed, (t, k, p) in enumerate([(1.0, 0, 1.0), (0.7, 20, 0.9), (1.5, 0, 0.5), (1.0, 5, 1.0)] * 2)
    ]
    requests = [GenerationRequest(f"r{i}", PROMPTS[i], p) for i, p in enumerate(params)]
    async with make(max_concurrent=8, prefill_chunk=16) as engine:
        together = await asyncio.gather(*(collect(engine.submit(r)) for r in requests))
        again = await asyncio.gather(*(collect(engine.submit(r)) for r in reversed(requests)))
        alone = [await collect(engine.submit(r)) for r in requests]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.token_ids for r in reversed(again)] == [r.token_ids for r in alone]
    assert len({tuple(r.token_ids) for r in alone}) == len(alone)


async def test_requests_join_and_leave_between_steps(make: Make) -> None:
    with slowed(make.model, 0.003):
        async with make(max_concurrent=4) as engine:
            long = asyncio.create_task(collect(engine.submit(GenerationRequest("long", [5], greedy(100)))))
            await until(lambda: engine.stats().running == 1)
            short = await collect(engine.submit(GenerationRequest("short", [6], greedy(3))))
            assert not long.done()
            assert len(short.token_ids) == 3
            assert len((await long).token_ids) == 100
            assert engine.stats().running == 0
            assert engine.stats().tokens_generated == 103


async def test_more_requests_than_rows_wait_their_turn(make: Make) -> None:
    with slowed(make.model, 0.003):
        async with make(max_concurrent=2, max_queue=10) as engine:
            tasks = [
                asyncio.create_task(collect(engine.submit(GenerationRequest(f"r{i}", [7 + i], greedy(10)))))
                for i in range(6)
            ]
            await until(lambda: engine.stats().running == 2)
            assert engine.stats().waiting >= 2
            assert [len((await t).token_ids) for t in tasks] == [10] * 6


async def test_a_full_queue_refuses_at_once(make: Make) -> None:
    with slowed(make.model, 0.01):
        async with make(max_concurrent=1, max_queue=1) as engine:
            streams = [engine.submit(GenerationRequest(f"r{i}", [1], greedy(20))) for i in range(2)]
            with pytest.raises(EngineOverloaded) as refused:
                engine.submit(GenerationRequest("r2", [1], greedy(1)))
            assert refused.value.retry_after >= 1
            for stream in streams:
                await collect(stream)
            assert len((await collect(engine.submit(GenerationRequest("r3", [1], greedy(1))))).token_ids) == 1


async def test_cancel_stops_within_a_step_and_frees_the_row(make: Make) -> None:
    with slowed(make.model, 0.02):
        async with make(max_concurrent=1) as engine:
            stream = engine.submit(GenerationRequest("r", [1], greedy(100)))
            await anext(stream)
            engine.cancel("r")
            written = engine.stats().tokens_generated
            rest = await collect(stream)
            assert rest.last.finish_reason == "cancelled"
            assert engine.stats().tokens_generated <= written + 1
            assert engine.stats().running == 0
            engine.cancel("r")
            engine.cancel("never heard of")


async def test_closing_the_stream_cancels(make: Make) -> None:
    with slowed(make.model, 0.02):
        async with make(max_concurrent=1) as engine:
            running = engine.submit(GenerationRequest("running", [1], greedy(100)))
            waiting = engine.submit(GenerationRequest("waiting", [1], greedy(100)))
            await anext(running)
            await waiting.aclose()
            await until(lambda: engine.stats().waiting == 0)
            await running.aclose()
            await until(lambda: engine.stats().running == 0)
            assert engine.stats().tokens_generated < 100


async def test_cancel_of_one_leaves_the_others_text_alone(make: Make) -> None:
    async with make(max_concurrent=4) as engine:
        alone = await collect(engine.submit(GenerationRequest("alone", prompt(9), greedy(60))))
        with slowed(make.model, 0.002):
            others = [engine.submit(GenerationRequest(f"o{i}", prompt(3 + i), greedy(100))) for i in range(3)]
            kept = asyncio.create_task(
                collect(engine.submit(GenerationRequest("kept", prompt(9), greedy(60))))
            )
            for stream in others:
                await anext(stream)
                await anext(stream)
                await stream.aclose()
            assert (await kept).token_ids == alone.token_ids


async def test_the_context_window_ends_a_request(make: Make) -> None:
    async with make() as engine:
        result = await collect(engine.submit(GenerationRequest("r", prompt(100), greedy(None))))
        assert len(result.token_ids) == 28
        assert result.last.finish_reason == "length"
        with pytest.raises(ValueError, match="the prompt has 128 tokens; the context window is 128"):
            engine.submit(GenerationRequest("full", prompt(128), greedy(1)))


@pytest.mark.parametrize("ids", [[], [320], [-1]])
async def test_a_prompt_that_can_not_be_used_is_refused(make: Make, ids: list[int]) -> None:
    async with make() as engine:
        with pytest.raises(ValueError, match="prompt"):
            engine.submit(GenerationRequest("r", ids, greedy(1)))


async def test_end_of_text_and_stop_strings(make: Make) -> None:
    async with make() as engine:
        free = await collect(engine.submit(GenerationRequest("free", prompt(9), greedy(30))))
    eos = free.token_ids[12]
    first = free.token_ids.index(eos)
    async with make(eos_ids=(eos,)) as engine:
        ended = await collect(engine.submit(GenerationRequest("eos", prompt(9), greedy(30))))
        assert ended.token_ids == free.token_ids[: first + 1]
        assert ended.text == make.tokenizer.decode(free.token_ids[:first])
        assert ended.last.finish_reason == "stop"
    stop = free.text[10:13]
    async with make() as engine:
        stopped = await collect(
            engine.submit(GenerationRequest("s", prompt(9), greedy(30, stop=(stop, "~none~"))))
        )
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.last.finish_reason == "stop"
        assert len(stopped.token_ids) < 30


async def test_logprobs_equal_a_plain_forward_pass(make: Make) -> None:
    ids = prompt(20)
    request = GenerationRequest("r", ids, greedy(5, logprobs=2), prompt_logprobs=1)
    async with make(prefill_chunk=8) as engine:
        result = await collect(engine.submit(request))
    with torch.no_grad():
        table = torch.log_softmax(make.model(torch.tensor([ids + result.token_ids]))[0], -1)
    scores = [event.logprobs[0] for event in result.events]
    for step, score in enumerate(scores):
        at = len(ids) - 1 + step
        assert score.token_id == result.token_ids[step]
        assert score.logprob == pytest.approx(float(table[at, score.token_id]), abs=1e-4)
        assert [t for t, _, _ in score.top] == table[at].topk(2).indices.tolist()
        assert score.text == make.tokenizer.token_text(score.token_id)
    read = result.events[0].prompt_logprobs
    assert read[0] is None
    assert [s.token_id for s in read[1:] if s] == ids[1:]
    for at, score in enumerate(read[1:]):
        assert score is not None
        assert math.isclose(score.logprob, float(table[at, ids[at + 1]]), abs_tol=1e-4)
    assert all(not event.prompt_logprobs for event in result.events[1:])


async def test_scoring_a_prompt_without_writing(make: Make) -> None:
    async with make() as engine:
        request = GenerationRequest("r", prompt(128), greedy(0), prompt_logprobs=0)
        result = await collect(engine.submit(request))
    assert result.token_ids == []
    assert result.last.finish_reason == "length"
    assert len(result.last.prompt_logprobs) == 128


async def test_a_failing_step_fails_its_requests_and_not_the_next(make: Make) -> None:
    async with make(max_concurrent=1) as engine:

        def explode(*_: object) -> None:
            raise RuntimeError("out of memory")

        handle = make.model.model.register_forward_pre_hook(explode)
        streams = [engine.submit(GenerationRequest(f"r{i}", [1], greedy(5))) for i in range(2)]
        for stream in streams:
            with pytest.raises(EngineFailed, match="RuntimeError"):
                await collect(stream)
        handle.remove()
        assert engine.stats().running == engine.stats().waiting == 0
        assert len((await collect(engine.submit(GenerationRequest("ok", [1], greedy(5))))).token_ids) == 5


async def test_a_thread_that_breaks_down_hangs_nobody(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't even be cleaned up after (a lost device, say) fails whoever waits, and all who come."""
    with slowed(make.model, 0.01):
        async with make(max_concurrent=1) as engine:

            def broken() -> None:
                raise RuntimeError("the device is lost")

            streams = [engine.submit(GenerationRequest(f"r{i}", [1], greedy(100))) for i in range(3)]
            await anext(streams[0])
            monkeypatch.setattr(engine._scheduler, "cancelled", broken)
            monkeypatch.setattr(engine._runner, "reset", broken)
            for stream in streams:
                with pytest.raises(EngineFailed):
                    await asyncio.wait_for(collect(stream), 5)
            with pytest.raises(EngineFailed):
                engine.submit(GenerationRequest("late", [1], greedy(1)))
            assert (engine.stats().waiting, engine.stats().failed) == (0, True)


async def test_close_ends_what_runs(make: Make) -> None:
    with slowed(make.model, 0.005):
        async with make() as engine:
            task = asyncio.create_task(collect(engine.submit(GenerationRequest("r", [1], greedy(100)))))
            await until(lambda: engine.stats().running == 1)
        assert (await task).last.finish_reason == "cancelled"
        with pytest.raises(EngineFailed):
            engine.submit(GenerationRequest("late", [1], greedy(1)))


async def test_an_id_in_use_is_refused(make: Make) -> None:
    async with make() as engine:
        stream = engine.submit(GenerationRequest("same", [1], greedy(100)))
        with pytest.raises(ValueError, match="in use"):
            engine.submit(GenerationRequest("same", [1], greedy(1)))
        await stream.aclose()


async def test_tenants_take_turns_and_the_higher_class_goes_first(make: Make) -> None:
    ended: list[str] = []

    async def ask(engine: TorchEngine, name: str, tenant: str, priority: int = 0) -> None:
        request = GenerationRequest(name, prompt(5), greedy(3), tenant=tenant, priority=priority)
        await collect(engine.submit(request))
        ended.append(name)

    with held(make.model) as go:
        async with make(max_concurrent=1) as engine:
            asked = [asyncio.create_task(ask(engine, f"flood {i}", "flood")) for i in range(6)]
            asked.append(asyncio.create_task(ask(engine, "other", "other")))
            asked.append(asyncio.create_task(ask(engine, "urgent", "flood", priority=1)))
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(*asked)
    assert ended.index("urgent") <= 2
    assert ended.index("other") <= 3
    assert [name for name in ended if name.startswith("flood")] == [f"flood {i}" for i in range(6)]


async def test_a_request_that_waits_too_long_is_given_up(make: Make) -> None:
    async with make(max_concurrent=1, max_wait=0.0) as engine:
        first = engine.submit(GenerationRequest("first", prompt(5), greedy(60)))
        second = engine.submit(GenerationRequest("second", prompt(5), greedy(3)))
        with pytest.raises(EngineOverloaded):
            await collect(second)
        assert (await collect(first)).last.finish_reason == "length"


def test_prompts_of_any_length_are_read_in_few_sizes(
    make: Make, reference: Callable[[list[int], int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size that linear layers meet costs memory for good; up to a batch of writers all occur anyway."""
    sizes: set[int] = set()
    read = Decoder.hidden_states

    def noting(model: Decoder, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.add(ids.shape[1])
        return read(model, ids, **options)

    monkeypatch.setattr(Decoder, "hidden_states", noting)
    lengths = range(17, 110, 7)

    async def run() -> list[list[int]]:
        async with make(prefill_chunk=64) as engine:
            results = []
            for number, length in enumerate(lengths):
                request = GenerationRequest(str(number), prompt(length, number), greedy(3))
                results.append((await collect(engine.submit(request))).token_ids)
            return results

    written = asyncio.run(run())
    assert written == [reference(prompt(length, number), 3) for number, length in enumerate(lengths)]
    assert sizes <= {*range(1, 17), 32, 48, 64}
