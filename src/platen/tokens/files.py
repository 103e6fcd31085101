"""Files of token ids: flat arrays to be mapped into memory, one a split, described by `meta.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import ArtifactError, DataError
from platen.core.kinds.data_splits import SPLITS
from platen.tokens.bulk import BulkEncoder, Encoded
from platen.tokens.tokenizer import Tokenizer

_META = "meta.json"


@dataclass(frozen=True)
class SplitTokens:
    """Size of one split: `bytes` are those of its text in UTF-8; `tokens` count the document marks too."""

    tokens: int
    bytes: int
    documents: int


@dataclass(frozen=True)
class TokensMeta:
    """`meta.json`: what one needs to read the token files."""

    dtype: str
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    splits: dict[str, SplitTokens]

    @classmethod
    def read(cls, folder: Path) -> TokensMeta:
        raw = json.loads((folder / _META).read_text("utf-8"))
        splits = {name: SplitTokens(**split) for name, split in raw.pop("splits").items()}
        return cls(**raw, splits=splits)

    def write(self, folder: Path) -> None:
        (folder / _META).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class TokenFiles:
    """The token files in a folder, and what their `meta` says of them. Raises ArtifactError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta = TokensMeta.read(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{folder / _META} can't be read: {error}",
                hint="give a folder that `platen tokens encode` or the stage `tokens` wrote",
            ) from None

    def path(self, split: str) -> Path:
        """The file of one split."""
        return token_file(self.folder, split)

    def open(self, split: str) -> NDArray[np.unsignedinteger]:
        """The ids of one split (n,), mapped into memory, read only: little-endian on every machine.

        Raises ArtifactError when the file is missing or its size is no whole number of ids.
        """
        path, kind = self.path(split), np.dtype(self.meta.dtype).newbyteorder("<")
        if not path.is_file() or path.stat().st_size % kind.itemsize:
            raise ArtifactError(
                f"{path} is missing or damaged",
                hint="remove the tokens artifact and run again; it is made anew",
            )
        if path.stat().st_size == 0:  # an empty file can't be mapped
            return np.empty(0, dtype=kind)
        return np.memmap(path, dtype=kind, mode="r")


def token_file(folder: Path, split: str) -> Path:
    """The file of one split in a folder of token files."""
    return folder / f"{split}.bin"


def write_splits(
    out: Path, tokenizer: Tokenizer, texts: Mapping[str, Iterable[str]], *, workers: int | None = None
) -> TokensMeta:
    """Write `train.bin`, `validation.bin`, `test.bin` and `meta.json` into `out`, on all cores.

    A file is a flat little-endian array of ids, uint16 up to 65,536 entries and uint32 above. Each document
    is begin-of-text, its tokens, end-of-text. Raises DataError.
    """
    if tokenizer.eos_id is None:
        raise DataError("the tokenizer has no end-of-text token", hint="Set eos_token in its config.")
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    encoder = BulkEncoder(tokenizer)
    splits = {
        name: _write_split(token_file(out, name), tokenizer, encoder, texts.get(name, ()), dtype, workers)
        for name in SPLITS
    }
    meta = TokensMeta(
        dtype={2: "uint16", 4: "uint32"}[dtype.itemsize],
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        tokenizer_sha256=tokenizer.sha256,
        splits=splits,
    )
    meta.write(out)
    return meta


def _write_split(
    target: Path,
    tokenizer: Tokenizer,
    encoder: BulkEncoder,
    texts: Iterable[str],
    dtype: np.dtype[Any],
    workers: int | None,
) -> SplitTokens:
    start = np.asarray(tokenizer.prefix_ids, dtype).tobytes()
    end = np.asarray([tokenizer.eos_id], dtype).tobytes()

    def packed(batch: list[Encoded]) -> tuple[bytes, int, int]:
        """The ids of a batch as in the file, the bytes of its texts, and how many documents end in it."""
        parts = []
        for found in batch:
            parts += [start] if found.first else []
            parts.append(found.ids.astype(dtype).tobytes())
            parts += [end] if found.last else []
        return b"".join(parts), sum(f.bytes for f in batch), sum(f.last for f in batch)

    written = size = documents = 0
    with target.open("wb") as file:
        for data, bytes_of_text, ended in encoder.encode(texts, packed, workers=workers):
            written += file.write(data)
            size += bytes_of_text
            documents += ended
    return SplitTokens(tokens=written // dtype.itemsize, bytes=size, documents=documents)
