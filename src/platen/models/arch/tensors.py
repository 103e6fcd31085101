"""A family's tensors and ours: renamed, fused, transposed, and back.

Our parameters are those of `parameters`; a family's table says where in a checkpoint they are. Taking them
out of a fused matrix gives views of it, so mapped weights stay mapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from platen.models.arch.config import DecoderConfig
from platen.models.arch.families import families
from platen.models.arch.parameters import Shape, parameter_shapes


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint and the parameters in it, by name and shape, in order."""

    name: str
    parts: Mapping[str, Shape]
    layout: str
    head_dim: int

    @property
    def shape(self) -> Shape:
        rows = sum(shape[0] for shape in self.parts.values())
        first = next(iter(self.parts.values()))
        whole = (rows, *first[1:])
        return whole[::-1] if self.layout == "columns" else whole

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our parameters in a tensor of `shape`."""
        if self.layout == "columns":
            tensor = tensor.T if tensor.dim() == 2 else tensor
        elif self.layout == "heads":
            parts = tensor.view(-1, len(self.parts), self.head_dim, *tensor.shape[1:]).unbind(1)
            return {
                name: part.reshape(shape)
                for (name, shape), part in zip(self.parts.items(), parts, strict=True)
            }
        sizes = [shape[0] for shape in self.parts.values()]
        return dict(zip(self.parts, torch.split(tensor, sizes), strict=True))

    def split_outputs(self, rows: Tensor) -> dict[str, Tensor]:
        """The same of a matrix (outputs, anything) whose rows are the outputs in the checkpoint's order."""
        if self.layout == "heads":
            return {
                name: part.flatten(0, 1)
                for name, part in zip(
                    self.parts,
                    rows.view(-1, len(self.parts), self.head_dim, rows.shape[1]).unbind(1),
                    strict=True,
                )
            }
        return dict(
            zip(self.parts, torch.split(rows, [shape[0] for shape in self.parts.values()]), strict=True)
        )

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The tensor that our parameters make."""
        parts = [parameters[name] for name in self.parts]
        if self.layout == "heads":
            heads = [part.reshape(-1, self.head_dim, *part.shape[1:]) for part in parts]
            return torch.stack(heads, dim=1).flatten(0, 2)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.T if self.layout == "columns" and whole.dim() == 2 else whole


def stored_tensors(config: DecoderConfig) -> dict[str, Stored]:
    """What a checkpoint of the family holds, by name."""
    names: dict[str, tuple[str, dict[str, Shape]]] = {}
    for name, shape in parameter_shapes(config).items():
        theirs, layout = stored_name(config, name)
        names.setdefault(theirs, (layout, {}))[1][name] = shape
    return {name: Stored(name, parts, layout, config.head_dim) for name, (layout, parts) in names.items()}


def stored_name(config: DecoderConfig, name: str) -> tuple[str, str]:
    """Under which name, and in which layout, a checkpoint of the family has a parameter."""
    for rule in families()[config.family].tensors:
        if match := re.fullmatch(rule.ours, name):
            return match.expand(rule.theirs), rule.layout
    return name, "rows"


class CheckpointNames:
    """From the names in a checkpoint, which may be an old one's or a bare network's, to `stored_tensors`'.

    None for a tensor that nothing is computed from: tables of the rotation, an output layer that is tied.
    """

    def __init__(self, config: DecoderConfig) -> None:
        family = families()[config.family]
        self._known_as = (*family.known_as, (r"^(?=embed_tokens\.|layers\.|norm\.)", "model."))
        ignored = [*family.ignored, r".*rotary_emb\.inv_freq$"]
        if config.tie_word_embeddings:
            ignored.append(re.escape(stored_name(config, "lm_head.weight")[0]))
        self._ignored = re.compile("|".join(ignored))

    def __call__(self, name: str) -> str | None:
        for pattern, replacement in self._known_as:
            name = re.sub(pattern, replacement, name)
        return None if self._ignored.match(name) else name


def to_stored(config: DecoderConfig, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of the family from our parameters."""
    return {name: stored.join(parameters) for name, stored in stored_tensors(config).items()}


def from_stored(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our parameters from a checkpoint that has all of the family's tensors, in their shapes."""
    for name, stored in stored_tensors(config).items():
        yield from stored.split(tensors[name]).items()
