"""Models that are not Platen's own, opened by transformers from folders as the Hugging Face Hub has them.

Only safetensors are read, no code that lies beside them is run, nothing is downloaded. `Labeller` is one that
labels texts or their tokens. Letters in shapes: B rows, T tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend
from torch import Tensor

from platen.core.errors import BundleError, MissingExtraError, first_line
from platen.models.folder import read_json
from platen.tokens.tokenizer import Tokenizer

Task = Literal["SequenceClassification", "TokenClassification"]
WINDOW = 512
"""Tokens that are looked at together, special ones included, unless the model has room for fewer."""
OVERLAP = 64
"""Tokens that a window shares with the one before it."""
BATCH = 16


def open_transformers(path: Path, auto: str, *, advice: str, complete: bool) -> Any:
    """The model in a folder, in float32 and evaluation mode, by one of transformers' `auto` classes.

    Raises BundleError with `advice` when it can't be opened, or is to be `complete` and weights are missing,
    which transformers would make up; MissingExtraError.
    """
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, loading = _opened(path, auto, advice, **options)
    if complete and (missing := sorted(loading["missing_keys"])):
        raise BundleError(f"{path} has no weights for {', '.join(missing[:3])}", hint=advice)
    return model.eval()


def open_config(path: Path, *, advice: str) -> Any:
    """What the folder says of its model. Raises BundleError with `advice`, MissingExtraError."""
    return _opened(path, "AutoConfig", advice)


def _opened(path: Path, auto: str, advice: str, **options: Any) -> Any:
    try:
        import transformers
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error
    except ImportError:
        raise MissingExtraError("embeddings", f"the model {path}") from None
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # Weights that are not needed, such as a Llama's output layer for vectors, are worth a report to it.
    set_verbosity_error()  # type: ignore[no-untyped-call]
    opener = getattr(transformers, auto)
    try:
        return opener.from_pretrained(path, trust_remote_code=False, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BundleError(f"transformers can't open {path}: {first_line(error)}", hint=advice) from None


def positions(config: Any) -> int:
    """Positions that texts can use: RoBERTa and its kin count from after the padding's id."""
    found = int(config.max_position_embeddings)
    counts_from_padding = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return found - config.pad_token_id - 1 if counts_from_padding else found


class Labeller:
    """A classifier of texts or of their tokens; `labels` are in the order of its outputs."""

    def __init__(self, path: Path, task: Task) -> None:
        """Raises BundleError for a folder without such a model, MissingExtraError."""
        raw = read_json(path / "config.json")
        architecture = (raw.get("architectures") or ["model of no named architecture"])[0]
        advice = f"Give a folder in the Hub's format of a model that ends in For{task}, with safetensors."
        if not architecture.endswith(f"For{task}"):
            raise BundleError(f"{path} is a {architecture}, not one for {task}", hint=advice)
        raw_tokenizer = Tokenizer.from_dir(path).raw
        self._model = open_transformers(path, f"AutoModelFor{task}", advice=advice, complete=True)
        config = self._model.config
        self.labels = tuple(str(config.id2label[number]) for number in range(config.num_labels))
        several = config.problem_type == "multi_label_classification" or len(self.labels) == 1
        self._shares = torch.sigmoid if several else (lambda logits: logits.softmax(dim=-1))
        self._padding = getattr(config, "pad_token_id", None)
        self._tokenizer = Backend.from_buffer(raw_tokenizer)
        self._tokenizer.no_padding()
        room = min(WINDOW, positions(config)) if hasattr(config, "max_position_embeddings") else WINDOW
        content = room - self._tokenizer.num_special_tokens_to_add(False)
        self.overlap = min(OVERLAP, content // 4)
        self._tokenizer.enable_truncation(room, stride=self.overlap)

    def windows(self, text: str) -> list[Encoding]:
        """The text's tokens, in windows that begin with the last `overlap` tokens of the one before."""
        first = self._tokenizer.encode(text)
        return [first, *first.overflowing]

    def outputs(self, windows: Sequence[Encoding]) -> Iterator[Tensor]:
        """Of each window how likely each label is: (L,), or (T, L) where tokens are labelled."""
        lengths = np.array([len(window.ids) for window in windows])
        results: dict[int, Tensor] = {}
        size = 1 if self._padding is None else BATCH
        order = np.argsort(lengths, kind="stable")
        with torch.inference_mode():
            for part in (order[begin : begin + size] for begin in range(0, len(order), size)):
                ids = torch.full((len(part), int(lengths[part].max())), self._padding or 0)
                for row, number in zip(ids, part, strict=True):
                    row[: lengths[number]] = torch.tensor(windows[number].ids)
                mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths[part])[:, None]
                logits = self._model(input_ids=ids, attention_mask=mask.long()).logits
                for shares, number in zip(self._shares(logits), part, strict=True):
                    results[int(number)] = shares
        for number in range(len(windows)):
            shares = results[number]
            yield shares[: lengths[number]] if shares.ndim == 2 else shares

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, L): how likely each label is for each text; of a long one, where it is likeliest."""
        owners, windows = [], []
        for number, text in enumerate(texts):
            own = self.windows(text)
            windows += own
            owners += [number] * len(own)
        result = np.zeros((len(texts), len(self.labels)))
        for owner, shares in zip(owners, self.outputs(windows), strict=True):
            result[owner] = np.maximum(result[owner], shares.numpy())
        return result
