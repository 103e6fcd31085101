"""Which model made a vector, how: written into every file of vectors, so that two models' never mix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from platen.core.errors import DataError
from platen.models.sentence import GRAPHS

KEY = b"platen.vectors"
"""Of the stamp in a Parquet schema's metadata."""


@dataclass(frozen=True)
class Stamp:
    """`fingerprint` changes when the model's vectors do; `prompt` came before each text.

    `backend` computed them: a graph that is known to give the model's vectors has the model's fingerprint,
    any other one its own.
    """

    model: str
    fingerprint: str
    pooling: str
    normalized: bool
    dimensions: int
    prompt: str = ""
    backend: str = ""

    def __str__(self) -> str:
        prompt = f", prompt {self.prompt!r}" if self.prompt else ""
        shape = f"{self.dimensions} numbers, {self.pooling}{', normalized' if self.normalized else ''}"
        backend = f", by {self.backend}" if self.backend in GRAPHS else ""
        return f"{self.model} (fingerprint {self.fingerprint}{backend}, {shape}{prompt})"

    def metadata(self) -> dict[bytes, bytes]:
        """As a Parquet schema keeps it."""
        return {KEY: json.dumps(asdict(self), sort_keys=True).encode()}

    @classmethod
    def read(cls, metadata: Mapping[bytes, bytes] | None, name: str) -> Stamp:
        """The stamp of the file `name`. Raises DataError when it has none."""
        try:
            return cls(**json.loads((metadata or {})[KEY]))
        except (KeyError, ValueError, TypeError):
            raise DataError(
                f"{name} does not say which model made its vectors",
                hint="Make it with platen embed run.",
            ) from None

    def check_comparable(self, other: Stamp, name: str) -> None:
        """Raises DataError unless the vectors of the file `name`, stamped `self`, live in the same space.

        A model may put one prompt before queries and another before documents: they are compared.
        """
        if self.fingerprint != other.fingerprint or self.dimensions != other.dimensions:
            raise DataError(
                f"vectors of different models can't be compared: those in {name} are of {self}, "
                f"the others of {other}",
                hint=f"Give the model that made {name} (its files and --backend as they were then), or embed "
                "it anew.",
            )

    def check_same(self, other: Stamp, name: str) -> None:
        """Raises DataError unless vectors stamped `other` may stand in the file `name`, stamped `self`."""
        self.check_comparable(other, name)
        if self.prompt != other.prompt:
            raise DataError(
                f"vectors with different prompts don't mix: those in {name} have {self.prompt!r}, "
                f"the others {other.prompt!r}",
                hint="Give the same --prompt, or another --out.",
            )
