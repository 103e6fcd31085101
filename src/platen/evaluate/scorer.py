"""What tells how likely a model finds given tokens: a network's logits, or an engine's log-probabilities.

A network computes many windows at once; an engine serves whatever form it runs, such as a compiled model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from platen.core.errors import BundleError
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.evaluate.session import EngineSession


class Scorer(Protocol):
    """Scores windows of tokens."""

    def losses(self, rows: NDArray[np.int64], keep: int) -> NDArray[np.float32]:
        """Negative log-likelihoods (B, keep), in nats, of the last `keep` of each row's (B, T) tokens.

        Each is given all tokens to its left in the row.
        """
        ...


class CausalLM(Protocol):
    """Anything that gives next-token logits: (B, T) token ids to (B, T or `logits_to_keep`, V)."""

    def __call__(self, input_ids: torch.Tensor, *, logits_to_keep: int = 0) -> torch.Tensor: ...


class TorchScorer:
    """A network on a device."""

    def __init__(self, model: CausalLM, device: str | torch.device = "cpu") -> None:
        self._model = model
        self._device = device

    def losses(self, rows: NDArray[np.int64], keep: int) -> NDArray[np.float32]:
        tokens = torch.from_numpy(rows).to(self._device)
        with torch.inference_mode():
            logits = self._model(tokens[:, :-1], logits_to_keep=keep)
            losses = [
                # One row at a time: the float32 copy and the softmax of a whole batch can outgrow the memory.
                functional.cross_entropy(row.float(), target, reduction="none")
                for row, target in zip(logits[:, -keep:], tokens[:, -keep:], strict=True)
            ]
        return torch.stack(losses).cpu().numpy()


class EngineScorer:
    """An engine, asked for the log-probabilities of prompts."""

    def __init__(self, session: EngineSession) -> None:
        self._session = session

    @property
    def context(self) -> int:
        """The longest window: a row has one token more, and the engine wants room for a new one."""
        return self._session.model.engine.capacity().context_window - 2

    def losses(self, rows: NDArray[np.int64], keep: int) -> NDArray[np.float32]:
        asked = SamplingParams(temperature=0, max_tokens=1)
        requests = [
            GenerationRequest(f"score-{number}", row.tolist(), asked, prompt_logprobs=0)
            for number, row in enumerate(rows)
        ]
        found = [
            [-token.logprob for event in events for token in event.prompt_logprobs if token is not None][
                -keep:
            ]
            for events in self._session.run(requests)
        ]
        if any(len(row) != keep for row in found):
            raise BundleError(
                f"the engine {self._session.model.engine.name} gives no log-probabilities of prompts",
                hint="Evaluate the bundle itself.",
            )
        return np.array(found, dtype=np.float32)
