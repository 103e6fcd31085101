"""Named tensors to safetensors files and back: one file, or shards with transformers' index.

Reading maps files into memory and checks every name and shape against what the network needs, so a damaged
file is named instead of loaded. Pickled weights are refused: unpickling runs whatever code the file holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from platen.core.errors import BundleError
from platen.models.folder import AGAIN

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    """Write `tensors` into `folder`; more than `max_shard_bytes` of them are cut into shards with an index.

    The same tensors give the same bytes. Raises BundleError when the disk refuses.
    """
    shards = _shards(tensors, max_shard_bytes)
    single = len(shards) == 1
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = WEIGHTS_FILE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in shard.items()}
        try:
            save_file(contiguous, folder / name, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise BundleError(
                f"{folder / name} can't be written: {error}", hint="Free disk space or write elsewhere."
            ) from None
    if not single:
        index = {
            "metadata": {"total_size": sum(map(_bytes, tensors.values()))},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_tensors(
    folder: Path,
    expected: Mapping[str, tuple[int, ...]],
    known_as: Callable[[str], str | None] = str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """The tensors whose names and shapes are `expected`, in `dtype` or else as stored.

    `known_as` turns a file's names into those; a tensor for which it gives None is left out, any other that
    is not expected is refused. Raises BundleError naming the file or the tensor.
    """
    found: dict[str, Tensor] = {}
    for file, names in _files(folder):
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                stored = set(opened.keys())
                for name in sorted(stored if names is None else names):
                    if name not in stored:
                        raise BundleError(
                            f"{file} has no tensor {name}, which the index puts there", hint=AGAIN
                        )
                    known = known_as(name)
                    if known is not None and known in expected:
                        tensor = opened.get_tensor(name)
                        found[known] = _checked(file, name, tensor, expected[known], dtype)
                    elif known is not None:
                        raise BundleError(
                            f"{file} has a tensor {name} that a network of its config.json doesn't have",
                            hint="config.json and weights are of different models or an unsupported kind.",
                        )
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{file} is damaged: {error}", hint=AGAIN) from None
    missing = sorted(expected.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BundleError(f"{folder}: the weights have no tensor {missing[0]}{more}", hint=AGAIN)
    return found


def _checked(
    file: Path, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None
) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise BundleError(
            f"{file}: tensor {name} has shape {list(tensor.shape)}; config.json asks for {list(shape)}",
            hint="config.json and weights are of different models.",
        )
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise BundleError(
            f"{file}: tensor {name} is {str(tensor.dtype).removeprefix('torch.')}",
            hint="Platen opens float32, bfloat16 and float16 weights.",
        )
    return tensor if dtype is None else tensor.to(dtype)


def _files(folder: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """The weight files and the tensors to take from each (None: all)."""
    if (folder / INDEX_FILE).is_file():
        by_file: dict[str, list[str]] = {}
        for name, file in _weight_map(folder / INDEX_FILE).items():
            by_file.setdefault(str(file), []).append(name)
        for file, names in sorted(by_file.items()):
            if Path(file).name != file or not (folder / file).is_file():
                raise BundleError(f"{folder} has no {file}, which {INDEX_FILE} names", hint=AGAIN)
            yield folder / file, names
    elif (folder / WEIGHTS_FILE).is_file():
        yield folder / WEIGHTS_FILE, None
    else:
        pickle = next((found.name for pattern in _PICKLES for found in folder.glob(pattern)), None)
        if pickle:
            raise BundleError(
                f"{folder} has its weights only as a pickle ({pickle}), which can run any code when opened",
                hint="Save them as safetensors where you trust the file: model.save_pretrained(…).",
            )
        raise BundleError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}", hint=AGAIN)


def _weight_map(index: Path) -> dict[str, Any]:
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        weight_map = None
    if not isinstance(weight_map, dict):
        raise BundleError(f"{index} is damaged: it has no weight_map", hint=AGAIN)
    return weight_map


def _shards(tensors: Mapping[str, Tensor], max_shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + _bytes(tensor) > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _bytes(tensor)
    return shards


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
