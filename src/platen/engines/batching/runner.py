"""What a batching engine needs of the library that computes: PyTorch, OpenVINO, llama.cpp.

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
    """Tokens [start, stop) of a sequence to compute in this step, and which of them need logits.

    A prompt whose logits are cached has an empty chunk, whose one row of logits is the cached one. The
    `draft` tokens are computed behind the newest token and all need logits. Rejected ones are overwritten in
    the cache by the next step, so only a sequence's `computed` tokens count there. Only PyTorch's runner gets
    drafts.
    """

    sequence: Sequence
    start: int
    stop: int
    logits: Literal["none", "last", "all"]
    draft: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of logits that it needs."""
        return {"none": 0, "last": 1, "all": self.stop - self.start}[self.logits] + len(self.draft)

    @property
    def decodes(self) -> bool:
        """It is the newest token of a decoding sequence, not part of a prompt."""
        return self.stop > self.sequence.prompt_length


class Adapters(Protocol):
    """What applies LoRA adapters to a runner's weights."""

    def read(self, folder: Path) -> Adapter:
        """An adapter from its folder, for this model. Raises BundleError."""
        ...

    def keep(self, adapters: collections.abc.Sequence[Adapter]) -> None:
        """Keep these ready and drop all others."""
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
        """Give a sequence a slot and room for its `reserved` tokens.

        Returns how many tokens of the prompt are in the cache already (0 unless `reuse`; all only if the
        logits of the last are cached too), or None when it does not fit until another is released.
        """
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that can be admitted when it is alone."""
        ...

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Reserve so many tokens for an admitted sequence; False when they do not fit."""
        ...

    def forward(self, chunks: collections.abc.Sequence[Chunk]) -> Floats:
        """Compute the chunks; returns the needed logits (N, V), in the chunks' order.

        They hold until the next step.
        """
        ...

    def release(self, sequence: Sequence) -> None:
        """The sequence is finished. Its keys and values may be kept for prompts that begin alike."""
        ...

    def reset(self) -> None:
        """Forget everything, after a failure."""
        ...

    def close(self) -> None:
        """Free the weights and the cache; nothing but `stats` is called afterwards."""
        ...

    def stats(self) -> dict[str, float]:
        """For `EngineStats.extra`."""
        ...
