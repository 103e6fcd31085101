"""Checkpoints that survive a kill at any moment.

A checkpoint is a folder `step-00000100` with `tensors.safetensors` (weights and optimizer state) and
`state.json` (the rest: random numbers and data order follow from the seed and the step). It is written under
a temporary name, synced and renamed, so a folder under its final name is whole. The best weights so far are
a file of their own, named by its step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from platen.core.errors import ArtifactError
from platen.core.files import sync, write_synced


@dataclass(frozen=True)
class TrainState:
    """Where a run is; `seconds` sum up all resumptions.

    `best_step` and `evaluated_step` are -1 before the first evaluation. `history_bytes` is how much of the
    history belongs to the checkpoint: what follows is cut off.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    smooth_loss: float | None = None
    best_loss: float | None = None
    best_step: int = -1
    evaluated_step: int = -1
    evaluations_without_gain: int = 0
    history_bytes: int = 0


@dataclass(frozen=True)
class Checkpoint:
    state: TrainState
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class CheckpointStore:
    """The checkpoints of one run, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove the ones it replaces."""
        state = checkpoint.state
        target = self.folder / f"step-{state.step:08d}"
        partial = target.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors = {
            f"{part}/{name}": tensor
            for part in ("weights", "optimizer")
            for name, tensor in getattr(checkpoint, part).items()
        }
        write_synced(partial / "tensors.safetensors", to_bytes(tensors))
        write_synced(partial / "state.json", json.dumps(asdict(state)).encode())
        sync(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync(self.folder)
        for old in self.folder.iterdir():
            if old.name not in (target.name, _best_name(state.best_step)):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Raises ArtifactError when it can't be read."""
        found = sorted(path for path in self.folder.glob("step-*") if path.suffix != ".tmp")
        if not found:
            return None
        try:
            state = TrainState(**json.loads((found[-1] / "state.json").read_text("utf-8")))
            tensors = load_file(found[-1] / "tensors.safetensors")
        except Exception as error:
            raise ArtifactError(
                f"the checkpoint {found[-1]} can't be read: {error}",
                hint=f"remove {self.folder}; training starts anew",
            ) from error
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        return Checkpoint(state, **parts)

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of the best evaluation so far, until a checkpoint names another."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / _best_name(step)
        partial = target.with_suffix(".tmp")
        write_synced(partial, to_bytes(weights))
        partial.replace(target)
        sync(self.folder)

    def load_best(self, step: int) -> dict[str, Tensor]:
        return load_file(self.folder / _best_name(step))

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _best_name(step: int) -> str:
    return f"best-{step:08d}.safetensors"


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of `tensors`, wherever they live."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with tied tensors once, under their first names."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach()
    return weights


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy what `weights_of` gave back into the model."""
    for name, tensor in weights_of(model).items():
        tensor.copy_(weights[name])
