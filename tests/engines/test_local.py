"""Prompts and generation without a server."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from platen.compress.compile import compile_bundle
from platen.core.errors import ConfigError
from platen.engines.batching.draft import DraftOptions
from platen.engines.local import open_model, stream_chat, stream_text
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.models.arch.decoder import Decoder
from platen.models.bundle import save_bundle
from platen.prompts.encoding import (
    chat_prompt,
    kind_of,
    text_prompt,
    truncated_chat_prompt,
    truncated_text_prompt,
)
from platen.serve.config import ServeConfig
from platen.serve.hub.loading import open_configured
from platen.tokens.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=10)
TURNS = """{% for m in messages %}<|end|>{{ m.role }}: {{ m.content }}
{% endfor %}assistant:"""


@pytest.fixture
def chat_tokenizer(tiny_tokenizer: Tokenizer, tmp_path: Path) -> Tokenizer:
    """The tiny tokenizer with a template that marks turns and writes its own beginning-of-text."""
    tiny_tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"chat_template": TURNS, "bos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_dir(tmp_path).beginning_with_bos()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_a_template_with_turns_makes_a_chat_model(
    tiny_tokenizer: Tokenizer, chat_tokenizer: Tokenizer
) -> None:
    assert kind_of(tiny_tokenizer) == "base"
    assert kind_of(chat_tokenizer) == "chat"


def test_beginning_of_text_is_written_once(chat_tokenizer: Tokenizer) -> None:
    assert chat_prompt(chat_tokenizer, [user("be")]).count(0) == 1
    assert text_prompt(chat_tokenizer, "be")[0] == 0


def test_an_empty_text_begins_a_document(tiny_tokenizer: Tokenizer) -> None:
    assert text_prompt(tiny_tokenizer, "") == [tiny_tokenizer.eos_id]


def test_a_long_text_loses_its_beginning_but_not_the_mark(
    tiny_tokenizer: Tokenizer, chat_tokenizer: Tokenizer
) -> None:
    ids = tiny_tokenizer.encode("to be or not to be")
    assert truncated_text_prompt(tiny_tokenizer, "to be or not to be", len(ids)) == ids
    assert truncated_text_prompt(tiny_tokenizer, "to be or not to be", 3) == ids[-3:]
    assert truncated_text_prompt(chat_tokenizer, "to be or not to be", 3) == [0, *ids[-2:]]
    assert truncated_text_prompt(chat_tokenizer, "to be or not to be", 1) == ids[-1:]


def test_an_answer_is_not_kept_without_its_question(chat_tokenizer: Tokenizer) -> None:
    messages = [user("one"), assistant("uno"), assistant("eins"), user("two")]
    last = chat_prompt(chat_tokenizer, messages[3:])
    for room in range(len(last), len(chat_prompt(chat_tokenizer, messages))):
        assert truncated_chat_prompt(chat_tokenizer, messages, room) == last


def test_a_long_conversation_loses_its_oldest_turns_first(chat_tokenizer: Tokenizer) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, user("one"), assistant("uno"), user("two"), assistant("due"), user("three")]
    whole = chat_prompt(chat_tokenizer, messages)
    assert truncated_chat_prompt(chat_tokenizer, messages, len(whole)) == whole
    shorter = [system, user("two"), assistant("due"), user("three")]
    assert truncated_chat_prompt(chat_tokenizer, messages, len(whole) - 1) == chat_prompt(
        chat_tokenizer, shorter
    )
    assert truncated_chat_prompt(chat_tokenizer, messages, 1) == chat_prompt(
        chat_tokenizer, [system, user("three")]
    )


async def test_a_bundle_writes_and_answers(tiny_bundle: Path) -> None:
    model = open_model(tiny_bundle)
    try:
        assert model.kind == "base"
        text = "".join([e.text async for e in stream_text(model.engine, model.tokenizer, "To be", GREEDY)])
        answer = "".join(
            [e.text async for e in stream_chat(model.engine, model.tokenizer, [user("To be")], GREEDY)]
        )
        assert text == answer != ""
        long = [turn for i in range(60) for turn in (user(f"to be {i}"), assistant("or not"))]
        events = [e async for e in stream_chat(model.engine, model.tokenizer, [*long, user("end")], GREEDY)]
        usage = events[-1].usage
        assert usage is not None
        assert usage.prompt_tokens <= 118
        with pytest.raises(ValueError, match="context window"):
            async for _ in stream_chat(model.engine, model.tokenizer, [user("1 " * 200)], GREEDY):
                pass
    finally:
        await model.engine.close()


async def test_words_of_prompt_and_text_stay_apart(tiny_llama: Decoder, tmp_path: Path) -> None:
    """Tokenizers of Llama 2's kind write a word's blank before it and drop that of a text's first word."""
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    words = {f"▁w{i}": i for i in range(tiny_llama.config.vocab_size)}
    raw = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": marks,
        "post_processor": None,
        "decoder": marks,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "▁w0"},
    }
    save_bundle(tmp_path / "bundle", tiny_llama, Tokenizer(json.dumps(raw).encode(), {}))
    model = open_model(tmp_path / "bundle")
    try:
        events = [e async for e in stream_text(model.engine, model.tokenizer, "w5 w6", GREEDY)]
        ids = [token_id for event in events for token_id in event.token_ids]
        assert len(ids) == 10
        assert "".join(event.text for event in events) == "".join(f" w{token_id}" for token_id in ids)
    finally:
        await model.engine.close()


def test_a_draft_is_refused_where_another_engine_would_run(tiny_bundle: Path, tmp_path: Path) -> None:
    compile_bundle(tiny_bundle, tmp_path / "compiled", "openvino")
    for path, engine in ((tmp_path / "compiled", None), (tiny_bundle, "vllm")):
        with pytest.raises(ConfigError, match=r"serve\.draft is for the engine torch"):
            open_model(path, EngineOptions(draft=DraftOptions()), engine=engine)


def test_a_configured_draft_reaches_the_engine(tiny_bundle: Path) -> None:
    config = ServeConfig.model_validate({"draft": {"match": 1}})
    model = open_configured(tiny_bundle, config)
    prompt = text_prompt(model.tokenizer, "tick tock tick tock tick tock")

    async def run() -> dict[str, float]:
        async for _ in model.engine.submit(GenerationRequest("r", prompt, GREEDY)):
            pass
        await model.engine.close()
        return model.engine.stats().extra

    assert asyncio.run(run())["draft_tokens"] > 0


async def test_leaving_the_loop_cancels(tiny_bundle: Path) -> None:
    model = open_model(tiny_bundle)
    try:
        sampling = SamplingParams(temperature=0, max_tokens=None)
        async with aclosing(stream_text(model.engine, model.tokenizer, "To be", sampling)) as events:
            await anext(events)
        after = stream_text(model.engine, model.tokenizer, "To be", GREEDY)
        assert [e async for e in after][-1].finish_reason == "length"
        assert model.engine.stats().running == 0
    finally:
        await model.engine.close()
