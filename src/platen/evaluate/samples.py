"""Texts that the model generates, for the evaluation report: seeded, so that the report is repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from platen.engines.protocol import GenerationRequest, SamplingParams, TokenEvent
from platen.evaluate.session import EngineSession


@dataclass(frozen=True)
class Sample:
    """A prompt, the model's continuation, and why it ended: `stop` (end of text) or `length`."""

    prompt: str
    text: str
    tokens: int
    finish_reason: str


def write_samples(
    session: EngineSession, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int
) -> list[Sample]:
    """Continue each prompt by at most `max_tokens` tokens, or to the end of the context window.

    The i-th uses seed + i. A prompt that does not fit the window is continued from its last tokens.
    """
    window = session.model.engine.capacity().context_window
    requests = {
        number: GenerationRequest(
            f"sample-{number}",
            ids[-(window - 1) :],
            SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed + number),
        )
        for number, prompt in enumerate(prompts)
        if (ids := _prompt_ids(session, prompt))
    }
    events = dict(zip(requests, session.run(list(requests.values())), strict=True))
    return [_sample(prompt, events.get(number, [])) for number, prompt in enumerate(prompts)]


def _prompt_ids(session: EngineSession, prompt: str) -> list[int]:
    """An empty prompt without a begin-of-text token begins with the mark between documents."""
    tokenizer = session.model.tokenizer
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    return ids or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])


def _sample(prompt: str, events: Sequence[TokenEvent]) -> Sample:
    text = "".join(event.text for event in events)
    tokens = sum(len(event.token_ids) for event in events)
    return Sample(prompt, text, tokens, "stop" if events and events[-1].finish_reason == "stop" else "length")
