"""The tiny model behind a real server, once for all tests, and a scripted engine for the rarer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from platen.engines.grammar import GrammarCompiler
from platen.engines.torch_engine import TorchEngine
from platen.models.llama import Llama
from platen.tokens.tokenizer import TextStream, Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, serving


@pytest.fixture(scope="session")
def server(tiny_llama: Llama, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    engine = TorchEngine(
        tiny_llama,
        new_detokenizer=lambda prompt_ids: TextStream(tiny_tokenizer, after=prompt_ids),
        token_text=tiny_tokenizer.token_text,
        grammars=GrammarCompiler(tiny_tokenizer.raw.decode(), tiny_tokenizer.vocab_size, (0,)),
        eos_ids=(0,),
        max_concurrent=4,
        max_queue=8,
    )
    with serving(engine, tiny_tokenizer) as running:
        yield running
    asyncio.run(engine.close())


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine([f"word{i} " for i in range(40)])


@pytest.fixture
def scripted_server(scripted: ScriptedEngine, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    with serving(scripted, tiny_tokenizer) as running:
        yield running


@pytest.fixture
def scripted_client(scripted_server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{scripted_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
