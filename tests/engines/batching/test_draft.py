"""Drafts change how fast a text is written and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from collections.abc import Sequence as TokenSequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.engines.batching.draft import Draft, DraftOptions, PromptLookup
from platen.engines.batching.engine import BatchingEngine
from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.models.arch.decoder import Decoder
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import Tokenizer
from tests.engines.torch.test_torch_engine import Make as Engines
from tests.engines.torch.test_torch_engine import Result, collect
from tests.engines.torch_engine import TorchEngine

EAGER = DraftOptions(tokens=8, match=1, step_tokens=64)
"""Guesses wherever a token has come before: often, and often wrongly."""


class Scripted:
    """A runner whose model goes on from token t with `script[position + 1]`; notes what it was asked."""

    name, context_window, vocab_size, adapters = "scripted", 100, 10, None

    def __init__(self, script: list[int], *, held: bool = False) -> None:
        """One that is `held` computes nothing until it may `go`."""
        self._script = script
        self.go = threading.Event()
        if not held:
            self.go.set()
        self.steps: list[tuple[int, ...]] = []
        self.writing: list[tuple[int, int]] = []
        """Of each step: how many texts were written in it, and how many tokens were guessed for them."""
        self.released: list[tuple[int, int]] = []

    def admit(self, sequence: Sequence, *, reuse: bool) -> int:
        return 0

    longest, kv_bytes = 100, 0

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        return True

    def forward(self, chunks: TokenSequence[Chunk]) -> Floats:
        self.go.wait(timeout=30)
        rows = []
        written = [chunk for chunk in chunks if chunk.decodes]
        self.writing.append((len(written), sum(len(chunk.draft) for chunk in written)))
        for chunk in chunks:
            self.steps.append(chunk.draft)
            rows += [self._script[chunk.stop + index] for index in range(chunk.rows)]
        return np.eye(self.vocab_size, dtype=np.float32)[rows]

    def release(self, sequence: Sequence) -> None:
        self.released.append((sequence.computed, len(sequence.tokens)))

    def reset(self) -> None: ...

    def close(self) -> None: ...

    def stats(self) -> dict[str, float]:
        return {}


class Digits:
    """Detokenizes token t to its digit."""

    def push(self, token_id: int) -> str:
        return str(token_id)

    def finish(self) -> str:
        return ""


async def run_script(
    script: list[int], prompt: int, sampling: SamplingParams, options: DraftOptions
) -> tuple[Scripted, Result, dict[str, float]]:
    runner = Scripted(script)
    engine = BatchingEngine(runner, new_detokenizer=lambda _: Digits(), token_text=str, draft=options)
    result = await collect(engine.submit(GenerationRequest("r", script[:prompt], sampling)))
    extra = engine.stats().extra
    await engine.close()
    return runner, result, extra


async def test_a_guess_is_taken_as_far_as_it_is_right() -> None:
    """Worked by hand: the prompt 1 2 3 4 5 1 2 goes on 3 4 6 1 2 3 4 6 1."""
    script = [1, 2, 3, 4, 5, 1, 2, 3, 4, 6, 1, 2, 3, 4, 6, 1]
    options = DraftOptions(tokens=4, match=2, step_tokens=16)
    runner, result, extra = await run_script(script, 7, SamplingParams(temperature=0, max_tokens=9), options)
    assert result.token_ids == script[7:]
    assert runner.steps == [
        (),  # the prompt; 3 is written
        (4, 5, 1, 2),  # after 2 3 came 4 5 1 2; 4 is right, 5 is not: 4 and 6 are written
        (),  # after 4 6 nothing is known: 1
        (),  # nor after 6 1: 2
        (3,),  # after 1 2 came 3; no more than were right before: 3 and 4 are written
        (6,),  # after 3 4 came 6 last; the text's last token is not guessed
    ]
    assert (extra["draft_tokens"], extra["draft_tokens_accepted"]) == (6.0, 3.0)
    assert runner.released == [(len(script) - 1, len(script))]


async def test_nothing_follows_a_right_guess_that_ends_the_text() -> None:
    script = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
    for sampling in (
        SamplingParams(temperature=0, max_tokens=6, stop_token_ids=(3,)),
        SamplingParams(temperature=0, max_tokens=6, stop=("3",)),
        SamplingParams(temperature=0, max_tokens=2),
    ):
        _, result, _ = await run_script(script, 4, sampling, EAGER)
        assert result.token_ids == [2, 3]
        assert result.last.usage is not None
        assert result.last.usage.completion_tokens == 2


def test_the_last_place_counts_and_what_reaches_the_end_repeats_itself() -> None:
    lookup = PromptLookup(2)
    assert lookup.after([1, 2, 3, 1, 2], 3) == (3, 1, 2)
    assert lookup.after([1, 2, 3, 1, 2, 4], 3) == ()
    assert lookup.after([1, 2, 3, 1, 2, 4, 1, 2], 5) == (4, 1, 2, 4, 1)
    assert lookup.after([1, 2, 3, 1, 2, 4, 1, 2, 7], 5) == ()
    assert PromptLookup(3).after([5, 5], 2) == ()


@given(tokens=st.lists(st.integers(0, 3), max_size=40), match=st.integers(1, 3), most=st.integers(1, 5))
def test_a_lookup_finds_what_a_search_would(tokens: list[int], match: int, most: int) -> None:
    lookup = PromptLookup(match)
    for length in range(1, len(tokens) + 1):
        text = tokens[:length]
        slots = [at for at in range(match, length) if text[at - match : at] == text[-match:]]
        expected = text[slots[-1] :] * most if slots else []
        assert lookup.after(text, most) == tuple(expected[:most])


def test_a_draft_is_as_long_as_the_last_was_right() -> None:
    draft, text = Draft(DraftOptions(tokens=6, match=1)), [1] * 9
    lengths = []
    for right in (6, 2, 2, 4, 6, 0, 1):
        lengths.append(len(draft.propose(text, 10)))
        draft.record_acceptance(lengths[-1], right)
    assert lengths == [6, 6, 2, 4, 6, 6, 1]
    assert draft.propose(text, 1) == (1,)
    assert draft.propose(text, 0) == ()


Make = Callable[..., AbstractAsyncContextManager[TorchEngine]]


@pytest.fixture
def make(tiny_llama: Decoder, tiny_tokenizer: Tokenizer) -> Make:
    """Opens engines over the tiny model, with and without drafts."""
    plain = Engines(tiny_llama, tiny_tokenizer)

    def opened(draft: DraftOptions | None, **options: Any) -> AbstractAsyncContextManager[TorchEngine]:
        grammars = GrammarCompiler(tiny_tokenizer, 320, (0,))
        return plain(draft=draft, grammars=grammars, eos_ids=(0,), **options)

    return opened


def repeating(length: int, start: int) -> list[int]:
    """A prompt that repeats itself after nine tokens."""
    return [(start * 37 + i % 9 * 11) % 319 + 1 for i in range(length)]


GREEDY = SamplingParams(temperature=0, max_tokens=50)
SCHEMA = {"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 6, "maxItems": 6}
KINDS = [
    GREEDY,
    SamplingParams(seed=1, max_tokens=60, temperature=0.3),
    SamplingParams(seed=2, max_tokens=60, top_k=5, top_p=0.9, logprobs=2),
    SamplingParams(seed=3, max_tokens=60, grammar=Grammar("json_schema", json.dumps(SCHEMA))),
    SamplingParams(seed=4, max_tokens=60, grammar=Grammar("regex", "(ab|abc){10}")),
    SamplingParams(temperature=0, max_tokens=60, repetition_penalty=1.05, logprobs=0),
    SamplingParams(temperature=0, max_tokens=60, frequency_penalty=0.02, presence_penalty=0.01),
    SamplingParams(seed=5, max_tokens=60, temperature=0.5, min_tokens=30, logit_bias=((0, 3.0),)),
]
"""What a request can ask for that looks at the text so far."""


def asked() -> list[GenerationRequest]:
    return [GenerationRequest(f"r{i}", repeating(20 + 3 * i, i), kind) for i, kind in enumerate(KINDS)]


def assert_same(found: TokenSequence[Result], expected: TokenSequence[Result]) -> None:
    """In all that a reader sees but the times; scores up to rounding, which differs with a step's rows."""

    def told(result: Result) -> Any:
        tops = [[text for _, text, _ in score.top] for event in result.events for score in event.logprobs]
        assert result.last.usage is not None
        counted = result.last.usage.completion_tokens
        return result.token_ids, result.text, result.last.finish_reason, counted, tops

    def scores(results: TokenSequence[Result]) -> list[float]:
        return [score.logprob for result in results for event in result.events for score in event.logprobs]

    assert [told(result) for result in found] == [told(result) for result in expected]
    assert scores(found) == pytest.approx(scores(expected), abs=1e-4)


async def test_texts_are_the_same_with_and_without_drafts_alone_and_together(make: Make) -> None:
    async with make(None) as engine:
        plain = [await collect(engine.submit(request)) for request in asked()]
    for options in (EAGER, DraftOptions(match=2, step_tokens=20)):
        async with make(options, max_concurrent=8, prefill_chunk=16) as engine:
            alone = [await collect(engine.submit(request)) for request in asked()]
            together = await asyncio.gather(*(collect(engine.submit(request)) for request in asked()))
            stats = engine.stats().extra
        assert_same(alone, plain)
        assert_same(together, plain)
        assert 50 < stats["draft_tokens_accepted"] < stats["draft_tokens"]
        assert stats["rows_held"] == stats["blocks_held"] == 0


async def test_a_stop_string_ends_a_text_in_the_midst_of_a_right_guess(make: Make) -> None:
    request = GenerationRequest("free", repeating(30, 0), GREEDY)
    async with make(None) as engine:
        free = await collect(engine.submit(request))
    for slot in range(5, 30, 6):
        stop = free.text[slot : slot + 3]
        params = SamplingParams(temperature=0, max_tokens=50, stop=(stop,))
        request = GenerationRequest("stops", repeating(30, 0), params)
        async with make(None) as engine:
            plain = await collect(engine.submit(request))
        async with make(EAGER) as engine:
            drafted = await collect(engine.submit(request))
        assert_same([drafted], [plain])
        assert drafted.text == free.text[: free.text.index(stop)]


async def test_what_was_guessed_wrongly_is_not_kept_for_later_prompts(make: Make) -> None:
    """A second request that begins with the first's text finds its keys and values, and they are right."""
    first = GenerationRequest("first", repeating(20, 3), SamplingParams(seed=7, max_tokens=70))
    async with make(None) as engine:
        plain = await collect(engine.submit(first))
        longer = GenerationRequest("second", [*first.prompt_ids, *plain.token_ids], GREEDY)
        plain_longer = await collect(engine.submit(longer))
    async with make(EAGER) as engine:
        await collect(engine.submit(first))
        assert engine.stats().extra["draft_tokens"] > engine.stats().extra["draft_tokens_accepted"]
        drafted_longer = await collect(engine.submit(longer))
    assert_same([drafted_longer], [plain_longer])
    assert drafted_longer.last.usage is not None
    assert drafted_longer.last.usage.cached_tokens >= 64


async def test_a_draft_beside_the_end_of_anothers_window(make: Make) -> None:
    """One row's last positions are the window's while another's draft is longer than what is left."""
    requests = [
        GenerationRequest("near", repeating(90, 1), SamplingParams(temperature=0, max_tokens=None)),
        GenerationRequest("far", repeating(20, 2), SamplingParams(temperature=0, max_tokens=100)),
    ]
    async with make(None) as engine:
        plain = [await collect(engine.submit(request)) for request in requests]
    async with make(EAGER) as engine:
        together = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    assert_same(together, plain)


async def test_a_full_batch_is_not_drafted_for() -> None:
    """Of seven tokens a step four texts get one each, three two at most."""
    script = [1, 2, 3] * 30
    runner = Scripted(script, held=True)
    options = DraftOptions(match=1, step_tokens=7)
    engine = BatchingEngine(runner, new_detokenizer=lambda _: Digits(), token_text=str, draft=options)
    lengths = (20, 40, 40, 40)
    requests = [
        GenerationRequest(f"r{i}", script[:9], SamplingParams(temperature=0, max_tokens=length))
        for i, length in enumerate(lengths)
    ]
    streams = [engine.submit(request) for request in requests]
    runner.go.set()
    results = await asyncio.gather(*(collect(stream) for stream in streams))
    await engine.close()
    assert [len(result.token_ids) for result in results] == [20, 40, 40, 40]
    assert {drafted for texts, drafted in runner.writing if texts == 4} == {0}
    assert max(drafted for texts, drafted in runner.writing if texts == 3) == 3


@given(
    seed=st.integers(0, 2**32),
    script=st.lists(st.integers(1, 4), min_size=40, max_size=60),
    prompt=st.integers(1, 20),
    match=st.integers(1, 3),
    tokens=st.integers(1, 9),
)
def test_any_script_is_written_as_it_is(
    seed: int, script: list[int], prompt: int, match: int, tokens: int
) -> None:
    params = SamplingParams(seed=seed, temperature=0.01, max_tokens=len(script) - prompt - 10)
    options = DraftOptions(tokens, match, step_tokens=tokens + 1)
    runner, result, extra = asyncio.run(run_script(script, prompt, params, options))
    assert result.token_ids == script[prompt:-10]
    assert len(runner.steps) + extra["draft_tokens_accepted"] == len(result.token_ids)
    computed, length = runner.released[0]
    assert computed == length - 1
    assert all(len(draft) <= tokens for draft in runner.steps)
