"""The vllm engine over the FAKE of vLLM, behind which the torch engine computes: for conformance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.local import LocalModel, open_model
from platen.engines.protocol import GenerationRequest, SamplingParams, TokenEvent, TokenLogprob
from platen.engines.vllm.engine import VllmEngine
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import TextStream
from tests.engines.vllm.fake_vllm import RunningFake, serving

KINDS = {"json": "json_schema", "regex": "regex", "grammar": "lark"}


@asynccontextmanager
async def through_fake_vllm(folder: Path, **options: Any) -> AsyncIterator[LocalModel]:
    """The bundle as `open_model` opens it, its engine the vllm one."""
    behind = open_model(folder)
    tokenizer, window = behind.tokenizer, behind.engine.capacity().context_window
    numbers = count()

    async def events(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        try:
            async for event in behind.engine.submit(request):
                yield event
        finally:
            behind.engine.cancel(request.request_id)

    def chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        loop = asyncio.new_event_loop()
        stream = events(asked(body, f"behind-{next(numbers)}"))
        try:
            while (event := loop.run_until_complete(anext(stream, None))) is not None:
                yield chunk(event, body)
                if event.usage is not None:
                    used = {"prompt_tokens": event.usage.prompt_tokens}
                    yield {
                        "usage": used
                        | {"prompt_tokens_details": {"cached_tokens": event.usage.cached_tokens}}
                    }
        finally:
            loop.run_until_complete(stream.aclose())  # type: ignore[attr-defined]
            loop.close()

    with serving(chunks) as url:
        engine = VllmEngine(
            RunningFake(url),
            context_window=window,
            vocab_size=tokenizer.vocab_size,
            new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
            token_text=tokenizer.token_text,
            eos_ids=(tokenizer.eos_id or 0,),
            grammars=GrammarCompiler(tokenizer, tokenizer.vocab_size, (tokenizer.eos_id or 0,)),
            **options,
        )
        try:
            yield replace(behind, engine=engine)
        finally:
            await engine.close()
            await behind.engine.close()


def asked(body: dict[str, Any], name: str) -> GenerationRequest:
    """What vLLM's request is in our own terms."""
    found = [(KINDS[key], text) for key, text in body.get("structured_outputs", {}).items()]
    same = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty")
    sampling = SamplingParams(
        **{key: body[key] for key in (*same, "frequency_penalty", "max_tokens", "min_tokens", "ignore_eos")},
        seed=None if body.get("seed") is None else body["seed"] % 2**64,
        logit_bias=tuple((int(token), bias) for token, bias in body.get("logit_bias", {}).items()),
        logprobs=body.get("logprobs"),
        grammar=Grammar(*found[0]) if found else None,  # type: ignore[arg-type]
    )
    return GenerationRequest(
        name, body["prompt"], sampling, body.get("logprobs") if body.get("echo") else None
    )


def chunk(event: TokenEvent, body: dict[str, Any]) -> dict[str, Any]:
    """An event as vLLM's `choices[0]`."""
    ids = list(event.token_ids)
    rows = [*event.prompt_logprobs, *event.logprobs]
    columns = None
    if body.get("logprobs") is not None:
        prompt = body["prompt"] if event.prompt_logprobs else []
        columns = {
            "tokens": [f"token_id:{token}" for token in (*prompt, *ids)],
            "token_logprobs": [None if row is None else row.logprob for row in rows],
            "top_logprobs": [None if row is None else top(row) for row in rows],
            "text_offset": [0] * len(rows),
        }
    if body["max_tokens"] == 0:
        ids = [1]  # it writes one in vain
    return {"text": event.text, "token_ids": ids, "logprobs": columns, "finish_reason": event.finish_reason}


def top(row: TokenLogprob) -> dict[str, float]:
    """The chosen token, then the likeliest."""
    pairs = [(row.token_id, row.logprob), *((token, value) for token, _, value in row.top)]
    return {f"token_id:{token}": value for token, value in pairs}
