"""Which device computes: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`, as project files and commands name it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from platen.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""What a network is computed in; auto leaves it to whoever computes."""
_NAME = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def check_device_name(name: str) -> str:
    """The name, if it is one of a device. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no device; devices are auto, cpu, cuda, cuda:N and mps")
    return name


DeviceName = Annotated[str, AfterValidator(check_device_name)]


def select_device(name: str) -> torch.device:
    """The device of this name; auto is the first CUDA device, else an Apple GPU, else the CPU.

    Raises ConfigError when the name is none, or PyTorch has no such device here.
    """
    import torch

    try:
        check_device_name(name)
    except ValueError as error:
        raise ConfigError(str(error), hint="choose one of them") from None
    if name == "auto":
        return torch.device(_best())
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(name, device.index)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("there is no Apple GPU here that PyTorch can use (mps)", hint="use auto, or cpu")
    return device


def _best() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_cuda(name: str, index: int | None) -> None:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "no driver or no GPU is found" if built else "this PyTorch is built for the CPU alone"
        raise ConfigError(
            f"there is no device {name} here: {why}", hint="use auto, or cpu; see platen doctor"
        )
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        there = ", ".join(f"cuda:{number}" for number in range(count))
        raise ConfigError(f"there is no device {name} here", hint=f"there is {there}")
