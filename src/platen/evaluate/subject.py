"""What is being evaluated: a model, its tokenizer, and the text of a split with its token ids.

Whatever a model is, it is opened alike, so that it is also measured alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from platen.core.devices import select_device
from platen.core.errors import DataError
from platen.core.kinds.data_splits import DataSplits
from platen.evaluate.scorer import EngineScorer, Scorer, TorchScorer
from platen.evaluate.session import EngineSession
from platen.models import ladder
from platen.models.arch.config import DecoderConfig
from platen.models.bundle import open_bundle
from platen.models.resolve import BUNDLE, resolve
from platen.tokens.files import TokenFiles
from platen.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Subject:
    """A model opened to be scored; `context` is its window in tokens."""

    scorer: Scorer
    tokenizer: Tokenizer
    context: int
    parameters: int


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


@contextmanager
def open_subject(path: Path, device: str = "cpu") -> Iterator[Subject]:
    """Open a model to be scored: a bundle, a ladder baseline, or any form that an engine runs.

    Networks of ours are scored by their logits, others by their engines. Raises ConfigError when there is no
    such device, BundleError.
    """
    model = resolve(path)
    if ladder.is_ladder(path):
        baseline = ladder.open(path)
        yield _of_network(baseline.model, baseline.config, baseline.tokenizer, device)
    elif model.form == BUNDLE and model.config.decoder is not None:
        bundle = open_bundle(path, device=select_device(device))
        yield _of_network(bundle.model, bundle.config, bundle.tokenizer, device)
    else:
        with EngineSession(path, device) as session:
            scorer = EngineScorer(session)
            yield Subject(scorer, model.tokenizer, scorer.context, model.parameters)


def _of_network(model: nn.Module, config: DecoderConfig, tokenizer: Tokenizer, device: str) -> Subject:
    on = select_device(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    scorer = TorchScorer(model.to(on).eval(), on)
    return Subject(scorer, tokenizer, config.max_position_embeddings, parameters)


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
