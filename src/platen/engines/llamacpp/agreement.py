"""Compares the predictions of a bundle and of the GGUF file that it was made of, over one text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from platen.core.errors import BundleError, MissingExtraError
from platen.engines.batching.detokenize import TextAssembler
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats, RandomStream
from platen.engines.batching.sequence import Sequence
from platen.engines.protocol import GenerationRequest
from platen.models.bundle import open_bundle
from platen.tokens.languages import SENTENCES
from platen.tokens.tokenizer import TextStream, Tokenizer

TOKENS = 160
"""Of the text, at most."""
MOST_DIVERGENCE = 0.05
"""In nats a token. llama.cpp rounds what it multiplies by quantized weights, which makes about 0.001."""


@dataclass(frozen=True)
class Agreement:
    """How far two models' predictions of the next token are apart, over `tokens` of a text.

    `largest` is the largest difference of two logits, `divergence` the mean of KL(file, bundle) in nats,
    `greedy` the share of positions at which both have the same likeliest token.
    """

    tokens: int
    largest: float
    divergence: float
    greedy: float

    def __str__(self) -> str:
        return (
            f"largest difference of logits {self.largest:.3g}, KL divergence {self.divergence:.2g} nats, "
            f"likeliest token the same at {self.greedy:.1%} of {self.tokens} positions"
        )


def agreement(file: Path, folder: Path) -> Agreement:
    """Compare llama.cpp running `file` with the decoder on `folder`.

    Raises BundleError when either can't be opened, MissingExtraError without llama-cpp-python.
    """
    bundle = open_bundle(folder, dtype=torch.float32)
    text = bundle.tokenizer.encode(" ".join(SENTENCES.values()), add_special_tokens=True)
    ids = text[: min(TOKENS, bundle.config.max_position_embeddings)]
    theirs = torch.from_numpy(_logits_of_file(file, ids, bundle.tokenizer))
    with torch.inference_mode():
        ours = bundle.model(torch.tensor([ids]))[0]
    predicted, wanted = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
    return Agreement(
        tokens=len(ids),
        largest=float((ours - theirs).abs().max()),
        divergence=max(0.0, float((wanted.exp() * (wanted - predicted)).sum(dim=-1).mean())),
        greedy=float((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).float().mean()),
    )


def require_agreement(file: Path, folder: Path) -> Agreement:
    """Like `agreement`; raises BundleError also when they are further apart than rounding explains."""
    found = agreement(file, folder)
    if not found.divergence <= MOST_DIVERGENCE:
        raise BundleError(
            f"the bundle made of {file} doesn't predict what llama.cpp predicts from it: {found}",
            hint=f"Serve the file itself: platen serve {file}. --no-verify imports it all the same.",
        )
    return found


def _logits_of_file(file: Path, ids: list[int], tokenizer: Tokenizer) -> Floats:
    """llama.cpp's logits (N, V) after each of the tokens, computed as its engine here computes."""
    try:
        from platen.engines.llamacpp.runner import LlamaCppRunner

        runner = LlamaCppRunner(
            file, context_window=len(ids) + 1, max_rows=1, step_tokens=len(ids), cache_bytes=2**30
        )
    except ImportError:
        raise MissingExtraError("edge", f"comparing with {file}") from None
    try:
        text = TextAssembler(TextStream(tokenizer), ())
        sequence = Sequence(GenerationRequest("agreement", ids), text, RandomStream(0), max_new_tokens=1)
        runner.admit(sequence, reuse=False)
        return np.array(runner.forward([Chunk(sequence, 0, len(ids), "all")]))
    finally:
        runner.close()
