"""Asks a language model which speech act a message is, through the engine protocol.

The answer is held to one of the seven names by a grammar, so that any model's answer can be used.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path

from platen.data.instruct.acts import ACTS, MEANINGS, Act
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams
from platen.prompts.encoding import truncated_chat_prompt
from platen.prompts.structured import Grammar
from platen.tokens.tokenizer import Tokenizer

_QUESTION = (
    "Which speech act is the message? Answer with one word.\n"
    + "\n".join(f"{act}: {meaning}" for act, meaning in MEANINGS.items())
    + "\n\nMessage:\n"
)
_ANSWER_TOKENS = 24


class LlmActs:
    """Asks the engine, several messages at a time; of a long one, the model sees the end."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, at_once: int = 8) -> None:
        self._engine, self._tokenizer, self._at_once = engine, tokenizer, at_once
        self._sampling = SamplingParams(
            temperature=0, max_tokens=_ANSWER_TOKENS, grammar=Grammar("regex", f"({'|'.join(ACTS)})")
        )

    async def tag(self, texts: Sequence[str]) -> list[Act]:
        """Raises EngineFailed when the model breaks."""
        turns = asyncio.Semaphore(self._at_once)

        async def one(text: str) -> Act:
            async with turns:
                return await self._ask(text)

        return list(await asyncio.gather(*map(one, texts)))

    async def _ask(self, text: str) -> Act:
        room = self._engine.capacity().context_window - _ANSWER_TOKENS
        messages = [{"role": "user", "content": _QUESTION + text}]
        prompt = truncated_chat_prompt(self._tokenizer, messages, room)
        request = GenerationRequest(uuid.uuid4().hex, prompt[-room:], self._sampling)
        said = ""
        async for event in self._engine.submit(request):
            said += event.text
        return next((act for act in ACTS if said.strip().startswith(act)), "representative")


def tag_with_bundle(bundle: Path, texts: Sequence[str]) -> list[Act]:
    """Open a model for the time of the tagging. Raises as `open_model`."""
    from platen.engines.local import open_model

    async def ask() -> list[Act]:
        model = open_model(bundle)
        try:
            return await LlmActs(model.engine, model.tokenizer).tag(texts)
        finally:
            await model.engine.close()

    return asyncio.run(ask())
