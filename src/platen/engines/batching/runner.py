"""What a batching engine needs of whatever multiplies the matrices: PyTorch, OpenVINO, llama.cpp.

A runner holds the weights and the key/value cache. Scheduling, sampling, stop strings, grammars and streams
are the same for all and live above it.
"""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence

if TYPE_CHECKING:
    from platen.models.adapter import Adapter


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a sequence to compute in this step, and whose logits are wanted.

    Of a prompt that the runner knows whole there are none to compute; the logits of its last are wanted.
    The tokens of `draft`, guesses of how a text goes on, are computed behind its newest; their logits are
    wanted too. Those that turn out wrong are written over: a sequence's `computed` tokens are right in the
    cache, and none behind them. Only PyTorch's runner is given drafts.
    """

    sequence: Sequence
    start: int
    stop: int
    logits: Literal["none", "last", "all"]
    draft: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Of how many of its tokens the logits are wanted."""
        return {"none": 0, "last": 1, "all": self.stop - self.start}[self.logits] + len(self.draft)

    @property
    def writes(self) -> bool:
        """It is the one newest token of a sequence that is writing."""
        return self.stop > self.sequence.prompt_length


class Adapters(Protocol):
    """What applies LoRA adapters to a runner's weights."""

    def read(self, folder: Path) -> Adapter:
        """An adapter from its folder, for this model. Raises BundleError."""
        ...

    def keep(self, adapters: collections.abc.Sequence[Adapter]) -> None:
        """Be able to apply these and no others."""
        ...


class Runner(Protocol):
    """Called by the engine's thread alone, but for the constants."""

    name: str
    context_window: int
    vocab_size: int
    kv_bytes: int
    """Memory that keys and values may take."""

    @property
    def adapters(self) -> Adapters | None:
        """What applies adapters to its weights; None when nothing can."""
        ...

    def admit(self, sequence: Sequence, *, reuse: bool) -> int | None:
        """Make room for the `reserved` tokens of a sequence.

        Returns how many tokens of the prompt are there already (0 unless `reuse`; all only if the logits of
        the last are known too), or None when there is no room until another is released.
        """
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that can be admitted when it is alone."""
        ...

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Make room for so many tokens of an admitted sequence; whether there is."""
        ...

    def forward(self, chunks: collections.abc.Sequence[Chunk]) -> Floats:
        """Compute the chunks; logits (N, V) of the wanted positions, in the chunks' order.

        They hold until the next step.
        """
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

    def stats(self) -> dict[str, float]:
        """For `EngineStats.extra`."""
        ...
