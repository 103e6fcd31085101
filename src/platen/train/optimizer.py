"""The optimizers: AdamW for everything, or Muon for the layers' matrices and AdamW for the rest.

Weight decay acts on matrices only. The state of all of them is one flat dictionary of tensors under the
parameters' names, so that a checkpoint needs no pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from platen.train.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to each of (N, R, C) with R <= C, roughly, in bfloat16.

    A quintic Newton-Schulz iteration; its coefficients take singular values to between 0.7 and 1.2 in five
    steps (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
    """
    a, b, c = NEWTON_SCHULZ
    x: Tensor = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before each step (Jordan et al., 2024), with decoupled decay.

    Matrices of one shape are done together, a tall one as its transpose: many small products would leave
    the processor idle. A step's size is lr * sqrt(max(1, rows / columns)) in the spectral norm.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows, columns = sorted(parameter.shape)
                    by_shape.setdefault((rows, columns), []).append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        averages = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient: Tensor = parameter.grad  # type: ignore[assignment]
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            # Nesterov: look one step of the average ahead.
            averages.append(_wide(torch.lerp(gradient, state["momentum"], group["momentum"])))
        for parameter, update in zip(parameters, orthogonalize(torch.stack(averages)), strict=True):
            rows, columns = parameter.shape
            step = update if rows <= columns else update.T
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(step, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


class Optimizers:
    """The optimizers of one model, stepped together."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        matrices = [p for p in self.names if p.ndim >= 2]
        vectors = [p for p in self.names if p.ndim < 2]
        self.all: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            outer = _token_matrices(model)
            hidden = [p for p in matrices if p.ndim == 2 and p not in outer]
            matrices = [p for p in matrices if p.ndim != 2 or p in outer]
            if hidden:
                self.all.append(
                    Muon(
                        hidden,
                        lr=config.muon_learning_rate,
                        momentum=config.muon_momentum,
                        weight_decay=config.weight_decay,
                    )
                )
        groups = [{"params": matrices, "weight_decay": config.weight_decay}]
        groups.append({"params": vectors, "weight_decay": 0.0})
        self.all.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=(config.beta1, config.beta2),
                fused=True,
            )
        )
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.all]

    def set_rate(self, factor: float) -> None:
        """Set every learning rate to `factor` times its peak."""
        for optimizer, peaks in zip(self.all, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def step(self) -> None:
        for optimizer in self.all:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """All state as `parameter.key` → tensor."""
        return {
            f"{self.names[parameter]}.{key}": value
            for optimizer in self.all
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave."""
        parameters = {name: parameter for parameter, name in self.names.items()}
        owners = {
            parameter: optimizer
            for optimizer in self.all
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name, value in tensors.items():
            path, _, key = name.rpartition(".")
            parameter = parameters[path]
            owners[parameter].state[parameter][key] = value.to(parameter.device)


def _token_matrices(model: nn.Module) -> set[Tensor]:
    """The matrices with a row per token of the vocabulary: the embedding and the output layer."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    vocabularies = {embedding.num_embeddings for embedding in embeddings}
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features in vocabularies]
    return {module.weight for module in embeddings} | {module.weight for module in heads}
