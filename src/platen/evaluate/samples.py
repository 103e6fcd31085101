"""Texts that the model writes, for the evaluation report: seeded, so that the report is repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from platen.engines.batching.sampling import RandomStream, Row, sample
from platen.engines.protocol import SamplingParams
from platen.evaluate.subject import Subject


@dataclass(frozen=True)
class Sample:
    """A prompt, the model's continuation, and why it ended: `stop` (end of text) or `length`."""

    prompt: str
    text: str
    tokens: int
    finish_reason: str


def write_samples(
    subject: Subject, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int
) -> list[Sample]:
    """Continue each prompt by at most `max_tokens` tokens; the i-th uses seed + i.

    The whole text so far, cropped to the context window, goes through the model for each token: slower
    than an engine's cache, and the same for every kind of model that is evaluated.
    """
    return [
        _continue(
            subject, prompt, SamplingParams(temperature=temperature, max_tokens=max_tokens), seed + index
        )
        for index, prompt in enumerate(prompts)
    ]


def _continue(subject: Subject, prompt: str, params: SamplingParams, seed: int) -> Sample:
    tokenizer = subject.tokenizer
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    if not ids:  # nothing to continue and no begin-of-text token: the mark between documents begins one
        ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    written: list[int] = []
    stream = RandomStream(seed)
    with torch.inference_mode():
        while ids and len(written) < (params.max_tokens or 0):
            row = torch.tensor([(ids + written)[-subject.context :]], device=subject.device)
            logits = subject.model(row, logits_to_keep=1)[:, -1]
            (chosen,) = sample(logits.float().cpu().numpy(), [Row(params, stream.uniform())])
            if chosen == tokenizer.eos_id:
                return Sample(prompt, tokenizer.decode(written), len(written), "stop")
            written.append(chosen)
    return Sample(prompt, tokenizer.decode(written), len(written), "length")
