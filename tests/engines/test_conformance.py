"""What every engine must do, whatever multiplies its matrices: one suite over all of them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from platen.compress.compile import compile_bundle
from platen.engines.local import LocalModel, open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import (
    Capability,
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    RequestRefused,
    SamplingParams,
    TokenEvent,
)
from platen.models.compiled import read_compiled
from platen.prompts.structured import Grammar
from tests.engines.vllm.torch_behind_vllm import through_fake_vllm
from tests.serve.running import serving

FORMS = {
    "torch": None,
    "openvino": ("openvino", "bf16", "openvino"),
    "llamacpp": ("gguf", "f16", "llama_cpp"),
    "vllm": None,
    "remote": None,
}
TOLERANCE = {"torch": 1e-4, "openvino": 0.1, "llamacpp": 0.02, "vllm": 1e-4, "remote": 1e-4}
"""Of log-probabilities against the float32 bundle; OpenVINO computes in bfloat16 where the CPU can, and keeps
keys and values in 8 bits."""


@pytest.fixture(scope="module", params=FORMS)
def folder(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny bundle in the form that an engine runs."""
    form = FORMS[request.param]
    if request.param in ELSEWHERE:
        link = tmp_path_factory.mktemp("link") / ELSEWHERE[request.param]
        link.symlink_to(tiny_bundle)
        return link
    if form is None:
        return tiny_bundle
    to, weights, module = form
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    out = tmp_path_factory.mktemp(request.param)
    compile_bundle(tiny_bundle, out, to, weights)
    return out


THROUGH_VLLM = "through-vllm"
"""A folder of this name is opened with the vllm engine, over a fake of vLLM that asks the torch engine."""


THROUGH_SERVER = "through-server"
"""A folder of this name is opened with the remote engine, over a server with the torch engine."""
ELSEWHERE = {"vllm": THROUGH_VLLM, "remote": THROUGH_SERVER}


def needs(model: LocalModel, capability: Capability) -> None:
    if capability not in model.engine.capabilities:
        pytest.skip(f"the {model.engine.name} engine does not tell {capability}")


@asynccontextmanager
async def through_server(folder: Path, **options: int) -> AsyncIterator[LocalModel]:
    behind = open_model(folder)
    with serving(behind.engine, behind.tokenizer) as server:
        address = f"remote:{server.url}/v1?model=tiny&tokenizer={folder}"
        model = await asyncio.to_thread(open_model, address, EngineOptions(**options))  # type: ignore[arg-type]
        try:
            yield model
        finally:
            await model.engine.close()


@asynccontextmanager
async def running(folder: Path, **options: int) -> AsyncIterator[LocalModel]:
    if folder.name == THROUGH_VLLM:
        async with through_fake_vllm(folder, **options) as model:
            yield model
        return
    if folder.name == THROUGH_SERVER:
        async with through_server(folder, **options) as model:
            yield model
        return
    model = open_model(folder, EngineOptions(**options))  # type: ignore[arg-type]
    try:
        yield model
    finally:
        await model.engine.close()


def ids(length: int, start: int = 1) -> list[int]:
    return [(start * 37 + i * 11) % 319 + 1 for i in range(length)]


async def collect(stream: AsyncIterator[TokenEvent]) -> tuple[list[int], str, TokenEvent]:
    tokens: list[int] = []
    text = ""
    async for event in stream:
        tokens += event.token_ids
        text += event.text
    return tokens, text, event


def greedy(count: int, **options: object) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, **options)  # type: ignore[arg-type]


async def test_log_probabilities_are_the_bundles(folder: Path, tiny_bundle: Path) -> None:
    request = GenerationRequest("r", ids(60), greedy(0), prompt_logprobs=0)
    async with running(folder) as model, running(tiny_bundle) as reference:
        needs(model, "logprobs")
        *_, found = await collect(model.engine.submit(request))
        *_, expected = await collect(reference.engine.submit(request))
        name = model.engine.name
    assert len(found.prompt_logprobs) == 60
    for ours, theirs in zip(found.prompt_logprobs[1:], expected.prompt_logprobs[1:], strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.token_id == theirs.token_id
        assert ours.logprob == pytest.approx(theirs.logprob, abs=TOLERANCE[name])


async def test_many_at_once_each_get_their_own(folder: Path) -> None:
    async with running(folder, max_concurrent=3) as model:
        requests = [GenerationRequest(f"r{i}", ids(5 + 9 * i, i), greedy(10 + i)) for i in range(8)]
        results = await asyncio.gather(*(collect(model.engine.submit(r)) for r in requests))
        stats = model.engine.stats()
    for i, (tokens, text, last) in enumerate(results):
        if "token_ids" in model.engine.capabilities:
            assert len(tokens) == 10 + i
            assert text == model.tokenizer.decode(tokens)
        assert text
        assert last.finish_reason == "length"
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (5 + 9 * i, 10 + i)
        assert last.timings is not None
        assert min(last.timings.queued, last.timings.prefill, last.timings.decode) >= 0
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.extra.get("blocks_held", 0) == stats.extra.get("places_held", 0) == 0


async def test_a_beginning_seen_before_is_not_read_again(folder: Path) -> None:
    async with running(folder) as model:
        first = await collect(model.engine.submit(GenerationRequest("a", ids(80), greedy(12))))
        again = await collect(model.engine.submit(GenerationRequest("b", ids(80), greedy(12))))
        other = await collect(model.engine.submit(GenerationRequest("c", ids(80, start=2), greedy(12))))
        turn = [*ids(80), *(first[0] or model.tokenizer.encode(first[1])), 7, 8]
        longer = await collect(model.engine.submit(GenerationRequest("d", turn, greedy(5))))
    assert first[2].usage is not None and first[2].usage.cached_tokens == 0  # noqa: PT018
    assert again[2].usage is not None and 64 <= again[2].usage.cached_tokens <= 80  # noqa: PT018
    assert other[2].usage is not None and other[2].usage.cached_tokens == 0  # noqa: PT018
    assert longer[2].usage is not None and longer[2].usage.cached_tokens >= 64  # noqa: PT018
    assert (again[0][:4], again[1][:4]) == (first[0][:4], first[1][:4])


@pytest.mark.parametrize("length", [20, 33, 64, 80])
async def test_a_prompt_seen_before_is_answered_as_before(folder: Path, length: int) -> None:
    """Word for word, also beside others, and whatever part of the cache its end fills."""
    async with running(folder) as model:
        needs(model, "token_ids")

        async def answered(name: str, start: int = 3) -> tuple[list[int], int]:
            request = GenerationRequest(name, ids(length, start), greedy(40))
            tokens, _, last = await collect(model.engine.submit(request))
            assert last.usage is not None
            return tokens, last.usage.cached_tokens

        first, _ = await answered("first")
        alone, cached = await answered("alone")
        among = await asyncio.gather(answered("among"), answered("other", 4), answered("too"))
        name = model.engine.name
    if name == "openvino":  # the others compute at least the last token again, in other sums
        assert cached == length
        assert alone == first
    assert [tokens[:1] for tokens, _ in (among[0], among[2])] == [first[:1]] * 2
    assert among[1][0] != first


async def test_a_prompt_that_goes_on_otherwise_is_read_from_there_and_answered_as_alone(folder: Path) -> None:
    prompt = [*ids(50), *ids(20, start=5)]

    async def answered(model: LocalModel, prompt: list[int]) -> TokenEvent:
        request = GenerationRequest("r", prompt, greedy(1, logprobs=1))
        return (await collect(model.engine.submit(request)))[2]

    async with running(folder) as model:
        needs(model, "logprobs")
        await answered(model, ids(80))
        after = await answered(model, prompt)
        name = model.engine.name
    async with running(folder) as model:
        alone = await answered(model, prompt)
    assert after.usage is not None
    if name != "vllm":
        assert after.usage.cached_tokens == (48 if name == "torch" else 50)
    assert after.token_ids == alone.token_ids
    assert after.logprobs[0].logprob == pytest.approx(alone.logprobs[0].logprob, abs=TOLERANCE[name] / 4)


async def test_a_seed_repeats_a_text(folder: Path) -> None:
    async with running(folder) as model:
        request = [
            GenerationRequest(name, ids(9), SamplingParams(seed=seed, max_tokens=25, top_p=0.9))
            for name, seed in (("a", 7), ("b", 7), ("c", 8))
        ]
        texts = [(await collect(model.engine.submit(r)))[1] for r in request]
    assert texts[0] == texts[1] != texts[2]


async def test_end_of_text_stop_strings_and_minimum(folder: Path) -> None:
    async with running(folder) as model:
        _, free, _ = await collect(model.engine.submit(GenerationRequest("free", ids(9), greedy(30))))
        stop = free[4:7]
        _, text, last = await collect(
            model.engine.submit(GenerationRequest("s", ids(9), greedy(30, stop=(stop,))))
        )
        assert text == free[: free.index(stop)]
        assert last.finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.completion_tokens < 30
        needs(model, "token_ids")
        ends = SamplingParams(max_tokens=20, logit_bias=((model.tokenizer.eos_id or 0, 100.0),))
        tokens, text, last = await collect(model.engine.submit(GenerationRequest("e", ids(9), ends)))
        assert (tokens, text, last.finish_reason) == ([model.tokenizer.eos_id], "", "stop")
        later = SamplingParams(max_tokens=20, min_tokens=6, logit_bias=ends.logit_bias)
        tokens, _, _ = await collect(model.engine.submit(GenerationRequest("m", ids(9), later)))
        assert tokens.index(model.tokenizer.eos_id) == 6


async def test_special_tokens_are_text_where_that_is_asked_for_and_any_token_can_end_it(folder: Path) -> None:
    async with running(folder) as model:
        needs(model, "token_ids")
        end = model.tokenizer.eos_id or 0
        always = greedy(3, logit_bias=((end, 100.0),))
        for shown, expected in (((), ""), ((end,), "<|end|>" * 3)):
            request = GenerationRequest("r", ids(9), always, shown=shown)
            assert (await collect(model.engine.submit(request)))[1] == expected
        tokens, _, _ = await collect(model.engine.submit(GenerationRequest("f", ids(9), greedy(12))))
        at = next(at for at, token in enumerate(tokens) if tokens.index(token) == at and at > 2)
        stopped = GenerationRequest("s", ids(9), greedy(12, stop_token_ids=(tokens[at],)))
        found, text, last = await collect(model.engine.submit(stopped))
        assert (found, last.finish_reason) == (tokens[: at + 1], "stop")
        assert text == model.tokenizer.decode(tokens[:at])


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
async def test_texts_match_their_grammar(folder: Path, count: int) -> None:
    if folder.name in ELSEWHERE.values() and count > 100:
        pytest.skip("it is PyTorch's engine that writes, behind a server for a few requests")
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["x", "ok"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},  # random weights would fill the window with blanks
    }
    grammar = Grammar("json_schema", json.dumps(schema))
    async with running(folder) as model:

        async def written(seed: int) -> tuple[str, str | None]:
            request = GenerationRequest(f"r{seed}", ids(9), SamplingParams(seed=seed, grammar=grammar))
            _, text, last = await collect(model.engine.submit(request))
            return text, last.finish_reason

        texts = []
        for first in range(0, count, 10):
            seeds = range(first, min(first + 10, count))
            texts += await asyncio.gather(*map(written, seeds))
        bad = GenerationRequest("bad", ids(9), SamplingParams(grammar=Grammar("regex", "(")))
        # What is elsewhere compiles grammars there: the stream says so.
        with pytest.raises((RequestRefused, EngineFailed), match="is not valid"):
            await collect(model.engine.submit(bad))
    found = [json.loads(text) for text, _ in texts]
    assert {reason for _, reason in texts} == {"stop"}
    assert all(type(one["x"]) is int and 0 <= one["x"] <= 99 for one in found)
    assert all(type(one["ok"]) is bool and one.keys() == {"x", "ok"} for one in found)
    assert len({text for text, _ in texts}) > count // 10, "they are not all the same"
    assert len(texts) == count


async def test_cancelling_frees_the_place_and_a_full_queue_refuses(folder: Path) -> None:
    async with running(folder, max_concurrent=1, max_queue=1) as model:
        engine = model.engine
        streams = [engine.submit(GenerationRequest(f"r{i}", ids(20), greedy(100))) for i in range(2)]
        with pytest.raises(EngineOverloaded):
            engine.submit(GenerationRequest("r2", ids(20), greedy(1)))
        await anext(streams[0])
        engine.cancel("r0")
        _, _, last = await collect(streams[0])
        assert last.finish_reason == "cancelled"
        await streams[1].aclose()
        _, _, last = await collect(engine.submit(GenerationRequest("ok", ids(20), greedy(5))))
        assert last.usage is not None
        assert last.usage.completion_tokens == 5
    with pytest.raises(EngineFailed):
        engine.submit(GenerationRequest("late", ids(3), greedy(1)))


async def test_the_window_bounds_a_text(folder: Path) -> None:
    async with running(folder) as model:
        window = model.engine.capacity().context_window
        params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
        _, _, last = await collect(model.engine.submit(GenerationRequest("r", ids(window - 8), params)))
        assert last.usage is not None
        assert (last.usage.completion_tokens, last.finish_reason) == (8, "length")
        with pytest.raises(RequestRefused, match="context window") as refused:
            model.engine.submit(GenerationRequest("full", ids(window), greedy(1)))
        assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")


async def test_a_small_cache_makes_requests_wait_not_fail(folder: Path) -> None:
    if read_compiled(folder) is None:
        pytest.skip("PyTorch's rows grow with their texts")
    async with running(folder, max_concurrent=8, kv_cache_bytes=200_000) as model:
        requests = [GenerationRequest(f"r{i}", ids(30, i), greedy(20)) for i in range(8)]
        results = await asyncio.gather(*(collect(model.engine.submit(r)) for r in requests))
    assert [len(tokens) for tokens, *_ in results] == [20] * 8


def test_the_same_bundle_compiles_to_the_same_bytes(folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    compiled = read_compiled(folder)
    if compiled is None:
        pytest.skip("not a compiled form")
    assert compile_bundle(tiny_bundle, tmp_path, compiled.to, compiled.weights) == compiled
    for file in sorted(folder.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
