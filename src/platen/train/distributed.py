"""Which process of how many this is, and what they tell each other.

One process is a world of one, where everything here is the identity. Under `torchrun` the processes join by
NCCL on GPUs and gloo on CPUs, and each takes its share of every batch (distributed data parallel).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from platen.core.devices import select_device
from platen.core.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process's `rank` among `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes in its backward pass."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def total(self, value: float) -> float:
        """The sum of a number over the processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor)

    def from_first(self, value: float) -> float:
        """The first process's number, so that all decide alike."""
        return self.total(value if self.first else 0.0)

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(batch_size: int, accumulation: int, device_name: str = "auto") -> Iterator[World]:
    """Join the processes that `torchrun` started, or be the only one; leave at the end.

    Several processes on `cuda` take a GPU each. Raises ConfigError when the processes can't share a batch
    evenly, or there is no such device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if batch_size % (size * accumulation):
        raise ConfigError(
            f"train.batch_size ({batch_size}) can't be shared by {size} processes "
            f"in {accumulation} micro-batches each",
            hint=f"make it a multiple of {size * accumulation}",
        )
    device = select_device(device_name)
    cuda = device.type == "cuda"
    if cuda:
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()
