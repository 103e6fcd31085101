"""The record of a run, one JSON object a line: every step's loss, rate and speed, every evaluation.

A resumed run cuts off what was written after its checkpoint, so the record reads as if nothing happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class History:
    """Appends to the record; with `write` False (a process that is not the first) it does nothing."""

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        self.write = write
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: Mapping[str, float]) -> None:
        if self.write:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(row)) + "\n")

    def sync(self) -> int:
        """Make what was written survive a power cut; its size in bytes."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        if self.write:
            with self.path.open("ab") as file:
                file.truncate(size)


@dataclass(frozen=True)
class TrainingRecord:
    """What training leaves beside a model: the folder `training` of the artifact in the folder `model`."""

    model: Path

    @property
    def history(self) -> Path:
        """Every step and every evaluation, as JSON lines."""
        return self._folder / "history.jsonl"

    @property
    def plot(self) -> Path:
        """The same as a picture."""
        return self._folder / "curves.png"

    @property
    def summary(self) -> Path:
        """What the run came to, as JSON."""
        return self._folder / "summary.json"

    @property
    def last_weights(self) -> Path:
        """The weights after the last step; the model's own are the best."""
        return self._folder / "last.safetensors"

    @property
    def _folder(self) -> Path:
        return self.model / "training"


@dataclass(frozen=True)
class Curves:
    """A record as columns. `losses` has one entry a step; `validation` pairs a step with its loss."""

    steps: list[int]
    losses: list[float]
    learning_rates: list[float]
    tokens_per_second: list[float]
    validation: list[tuple[int, float]]


def read_curves(path: Path) -> Curves:
    curves = Curves([], [], [], [], [])
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if "validation_loss" in row:
                curves.validation.append((row["step"], row["validation_loss"]))
            else:
                curves.steps.append(row["step"])
                curves.losses.append(row["loss"])
                curves.learning_rates.append(row["learning_rate"])
                curves.tokens_per_second.append(row["tokens_per_second"])
    return curves
