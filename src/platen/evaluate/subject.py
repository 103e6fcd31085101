"""What is being evaluated: a model, its tokenizer, and the text of a split with its token ids.

Bundles and ladder baselines are opened alike, so that they are also measured alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from platen.core.devices import select_device
from platen.core.errors import DataError
from platen.core.kinds.data_splits import DataSplits
from platen.tokens.files import TokenFiles
from platen.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Subject:
    """An opened model. `model` takes (B, T) ids and `logits_to_keep`; `context` is in tokens."""

    model: nn.Module
    tokenizer: Tokenizer
    context: int
    parameters: int

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device


@dataclass(frozen=True)
class DocumentSpan:
    """One document of a split: tokens `start` to `stop` (its marks included), UTF-8 bytes of its text."""

    id: str
    start: int
    stop: int
    bytes: int


@dataclass(frozen=True)
class SplitText:
    """A split as token ids (n,), memory-mapped, with its documents in order."""

    ids: NDArray[Any]
    documents: tuple[DocumentSpan, ...]

    @property
    def bytes(self) -> int:
        return sum(document.bytes for document in self.documents)


def open_subject(path: Path, device: str = "cpu") -> Subject:
    """Open a bundle or a ladder baseline in evaluation mode on a device.

    Raises ConfigError when there is no such device, BundleError.
    """
    from platen.models import ladder

    on = select_device(device)
    if ladder.is_ladder(path):
        baseline = ladder.open(path)
        return _subject(baseline.model.to(on), baseline.tokenizer, baseline.config.max_position_embeddings)
    from platen.models.bundle import open_bundle

    bundle = open_bundle(path, device=on)
    return _subject(bundle.model, bundle.tokenizer, bundle.config.max_position_embeddings)


def _subject(model: nn.Module, tokenizer: Tokenizer, context: int) -> Subject:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Subject(model.eval(), tokenizer, context, parameters)


def read_split(tokens: Path, data: Path, split: str, tokenizer: Tokenizer) -> SplitText:
    """The split's ids from the `tokens` artifact and its documents from the `data` artifact.

    Raises DataError when the split is empty, or the two artifacts or the tokenizer do not belong together.
    """
    files = TokenFiles(tokens)
    meta = files.meta
    if meta.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            "The token files were made with another tokenizer than the model's.",
            hint="run the stage `tokens` again",
        )
    if meta.splits[split].tokens < 2:
        raise DataError(
            f"The {split} split is empty, so there is nothing to evaluate on.",
            hint=f"give data.split.{split} a share of the text, or set evaluate.split",
        )
    ids = files.open(split)
    ends = np.flatnonzero(ids == meta.eos_id) + 1
    texts = [(str(d["id"]), len(d["text"].encode())) for d in DataSplits(data).documents(split)]
    if len(ends) != len(texts) or ends[-1] != len(ids):
        raise DataError(
            f"The {split} split has {len(texts)} documents, but {len(ends)} in its token file.",
            hint="run the stages `data` and `tokens` again",
        )
    starts = [0, *ends[:-1].tolist()]
    spans = zip(texts, starts, ends.tolist(), strict=True)
    return SplitText(ids, tuple(DocumentSpan(name, start, stop, size) for (name, size), start, stop in spans))
