"""The tiny model behind a real server, once for all tests, and a scripted engine for the rarer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

from platen.engines.batching.grammar import GrammarCompiler
from platen.models.arch.decoder import Decoder
from platen.tokens.tokenizer import TextStream, Tokenizer
from tests.engines.torch_engine import TorchEngine
from tests.serve.running import RunningServer, ScriptedEngine, serving
from tests.toolmodels import random_llama


@contextmanager
def tiny_server(model: Decoder, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> Iterator[RunningServer]:
    engine = TorchEngine(
        model,
        new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
        token_text=tokenizer.token_text,
        grammars=GrammarCompiler(tokenizer, tokenizer.vocab_size, (0,)),
        eos_ids=eos_ids,
        max_concurrent=4,
        max_queue=8,
    )
    with serving(engine, tokenizer) as running:
        yield running
    asyncio.run(engine.close())


@contextmanager
def random_server(tokenizer: Tokenizer, *, window: int) -> Iterator[RunningServer]:
    """A model of random weights for this tokenizer."""
    with tiny_server(random_llama(tokenizer, window=window), tokenizer, eos_ids=(0,)) as running:
        yield running


@pytest.fixture(scope="session")
def server(tiny_llama: Decoder, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    with tiny_server(tiny_llama, tiny_tokenizer, eos_ids=(0,)) as running:
        yield running


@pytest.fixture(scope="session")
def endless_server(tiny_llama: Decoder, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    """For texts that must not end by themselves: its model knows no end of text."""
    with tiny_server(tiny_llama, tiny_tokenizer, eos_ids=()) as running:
        yield running


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
