"""What a batching engine needs of whatever multiplies the matrices: PyTorch, OpenVINO, llama.cpp.

A runner holds the weights and the key/value cache. Scheduling, sampling, stop strings, grammars and streams
are the same for all and live above it.
"""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from platen.engines.adapters import AdapterSet
from platen.engines.sequence import Sequence


@dataclass(frozen=True)
class Part:
    """Tokens [start, stop) of a sequence to compute in this step, and whose logits are wanted."""

    sequence: Sequence
    start: int
    stop: int
    logits: Literal["none", "last", "all"]

    @property
    def writes(self) -> bool:
        """It is the one newest token of a sequence that is writing."""
        return self.start >= self.sequence.prompt_length


class Runner(Protocol):
    """Called by the engine's thread alone, but for the constants."""

    name: str
    context_window: int
    vocab_size: int

    @property
    def adapters(self) -> AdapterSet | None:
        """What applies adapters to its weights; None when nothing can."""
        ...

    def admit(self, sequence: Sequence, *, reuse: bool) -> int | None:
        """Make room for the whole of a sequence, its prompt and all that it may write.

        Returns how many tokens of the prompt are there already (never all; 0 unless `reuse`), or None when
        there is no room until another is released.
        """
        ...

    def fits(self, tokens: int) -> bool:
        """Whether a sequence of so many tokens could ever be admitted."""
        ...

    def forward(self, parts: collections.abc.Sequence[Part]) -> Tensor:
        """Compute the parts; logits (N, V) of the wanted positions, in the parts' order."""
        ...

    def release(self, sequence: Sequence) -> None:
        """The sequence is over. What it computed may be kept for prompts that begin alike."""
        ...

    def reset(self) -> None:
        """Forget everything, after a failure."""
        ...

    def close(self) -> None:
        """Free the weights and the cache; nothing is called afterwards but `figures`."""
        ...

    def figures(self) -> dict[str, float]:
        """For `EngineStats.extra`."""
        ...
