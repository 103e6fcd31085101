"""Key/value caches within a budget, on every local engine: growth, refusal, long and short together."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from platen.compress.compile import compile_bundle
from platen.core.errors import BundleError, ConfigError
from platen.engines.batching.kv_budget import budget_bytes
from platen.engines.llamacpp.shapes import CacheShape, CacheShapes
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.bundle import save_bundle
from platen.tokens.tokenizer import Tokenizer
from tests.engines.test_conformance import collect, ids

WINDOW = 4096
FORMS = {
    "torch": None,
    "openvino": ("openvino", "bf16", "openvino"),
    "llamacpp": ("gguf", "f16", "llama_cpp"),
}
BUDGET = {"torch": 2_200_000, "openvino": 500_000, "llamacpp": 1_100_000}
"""Bytes for some 1,600 to 2,200 tokens of the model below, less than half its window."""


@pytest.fixture(scope="module", params=FORMS)
def folder(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A network of two layers, two key/value heads of 32, and a window of 4,096."""
    bundle, out = tmp_path_factory.mktemp("long"), tmp_path_factory.mktemp(request.param)
    tokenizer = Tokenizer.from_dir(tiny_bundle)
    config = DecoderConfig(
        family="llama",
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=WINDOW,
    )
    save_bundle(bundle, Decoder(config), tokenizer)
    form = FORMS[request.param]
    if form is None:
        return bundle
    to, weights, module = form
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    compile_bundle(bundle, out, to, weights)
    return out


def engine_of(folder: Path) -> str:
    return next((name for name in FORMS if name in folder.name), "torch")


def request(name: str, prompt: int, tokens: int | None) -> GenerationRequest:
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    return GenerationRequest(name, ids(prompt, len(name)), sampling)


async def test_long_and_short_requests_share_a_small_budget(folder: Path) -> None:
    model = open_model(folder, EngineOptions(max_concurrent=4, kv_cache_bytes=BUDGET[engine_of(folder)]))
    try:
        asked = [(20, 10), (1200, 20), (30, 300), (700, 9), (40, 12), (50, 13), (900, 5), (10, 600)]
        requests = [request(f"r{number}", *sizes) for number, sizes in enumerate(asked)]
        answers = await asyncio.gather(*(collect(model.engine.submit(one)) for one in requests))
        alone = await collect(model.engine.submit(request("r2", 30, 300)))
    finally:
        await model.engine.close()
    assert [len(tokens) for tokens, _, _ in answers] == [tokens for _, tokens in asked]
    assert {last.finish_reason for _, _, last in answers} == {"length"}
    if engine_of(folder) == "torch":  # exact whatever shares the batch
        assert alone[0] == answers[2][0]


async def test_a_request_that_can_never_fit_is_refused_at_once(folder: Path) -> None:
    model = open_model(folder, EngineOptions(max_concurrent=4, kv_cache_bytes=BUDGET[engine_of(folder)]))
    try:
        with pytest.raises(ValueError, match="the key/value cache holds"):
            model.engine.submit(request("long", 3000, 10))
        with pytest.raises(ValueError, match="the key/value cache holds"):
            model.engine.submit(request("long", 100, 3900))
    finally:
        await model.engine.close()


async def test_an_unsaid_length_grows_with_the_response_until_the_cache_is_full(folder: Path) -> None:
    model = open_model(folder, EngineOptions(max_concurrent=4, kv_cache_bytes=BUDGET[engine_of(folder)]))
    try:
        tokens, _, last = await collect(model.engine.submit(request("unsaid", 100, None)))
        said, _, _ = await collect(model.engine.submit(request("unsaid", 100, 600)))
    finally:
        await model.engine.close()
    assert last.finish_reason == "length"
    assert 700 < len(tokens) < WINDOW - 100
    if engine_of(folder) == "torch":
        assert tokens[:600] == said  # growing has lost nothing


def test_a_budget_for_not_even_a_short_sequence_is_refused_before_serving(folder: Path) -> None:
    with pytest.raises(BundleError, match="the key/value cache may take"):
        open_model(folder, EngineOptions(kv_cache_bytes=20_000))


def test_amounts_and_shares() -> None:
    assert budget_bytes("512MB") == 512_000_000
    assert budget_bytes("1.5GB") == 1_500_000_000
    assert 0 < budget_bytes("10%") < budget_bytes("90%")
    with pytest.raises(ConfigError, match="no amount"):
        budget_bytes("much")


def test_shapes_of_llama_cpps_cache_stay_within_the_budget() -> None:
    shapes = CacheShapes(cells=40_000, context_window=131_072, max_rows=16)
    assert shapes.first() == CacheShape(16, 512)
    assert shapes.longest == 39_936  # a whole number of 256
    assert shapes.for_longest(900) == CacheShape(32, 1024)
    assert shapes.for_longest(20_000) == CacheShape(1, 20_224)
    assert shapes.longer(CacheShape(16, 512), 600) == CacheShape(16, 1536)
    assert shapes.longer(CacheShape(16, 2048), 2500) is None
