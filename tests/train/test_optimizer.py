"""Which parameters decay, and Muon's step against a singular value decomposition."""

from __future__ import annotations

import torch
from torch import nn

from platen.train.config import TrainConfig
from platen.train.optimizer import Muon, Optimizers, orthogonalize


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.layer = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.back = nn.Linear(6, 4, bias=False)
        self.head = nn.Linear(4, 11, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.back(self.norm(self.layer(self.embed(ids)))))
        return logits


def decays(optimizers: Optimizers) -> dict[str, float]:
    return {
        optimizers.names[p]: group["weight_decay"]
        for optimizer in optimizers.all
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_only_matrices_decay() -> None:
    expected = {
        "embed.weight": 0.3,
        "layer.weight": 0.3,
        "layer.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "back.weight": 0.3,
        "head.weight": 0.3,
    }
    for name in ("adamw", "muon"):
        config = TrainConfig.model_validate({"steps": 1, "weight_decay": 0.3, "optimizer": name})
        assert decays(Optimizers(Network(), config)) == expected


def test_muon_takes_the_layers_matrices_and_adamw_the_rest() -> None:
    optimizers = Optimizers(Network(), TrainConfig(steps=1, optimizer="muon"))
    muon, adamw = optimizers.all
    named = [
        {optimizers.names[p] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (muon, adamw)
    ]
    assert named[0] == {"layer.weight", "back.weight"}
    assert named[1] == {"embed.weight", "head.weight", "layer.bias", "norm.weight", "norm.bias"}


def test_orthogonalize_keeps_the_singular_vectors_and_levels_the_values() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, 8, 20)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    got_values = torch.linalg.svdvals(orthogonalize(matrix))
    assert got_values.min() > 0.6
    assert got_values.max() < 1.3
    inner = u.mT @ orthogonalize(matrix) @ vh.mT  # diagonal, if the singular vectors are kept
    off = inner - torch.diag_embed(torch.diagonal(inner, dim1=-2, dim2=-1))
    assert off.abs().max() < 0.05


def test_muons_first_step_by_hand() -> None:
    # Averages start at 0, so the first update is along the gradient; for a multiple of an orthogonal
    # matrix orthogonalizing gives that matrix again, up to the iteration's 0.7 to 1.2.
    for rows, columns, scale in ((4, 4, 1.0), (8, 4, 2**0.5), (4, 8, 1.0)):
        q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))
        q = q if rows >= columns else q.T
        weight = nn.Parameter(torch.ones(rows, columns))
        weight.grad = 5 * q
        Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
        step = (torch.ones(rows, columns) * (1 - 0.1 * 0.5) - weight.detach()) / (0.1 * scale)
        ratio = (step * q).sum() / (q * q).sum()
        assert 0.65 < ratio < 1.25
        assert torch.allclose(step, ratio * q, atol=0.06)


def test_state_comes_back_and_continues_alike() -> None:
    ids = torch.arange(11).view(1, -1)

    def steps(model: Network, optimizers: Optimizers, count: int) -> None:
        for _ in range(count):
            model(ids).logsumexp(-1).sum().backward()
            optimizers.step()
            optimizers.zero_grad()

    config = TrainConfig(steps=1, optimizer="muon")
    torch.manual_seed(1)
    straight = Network()
    first = Optimizers(straight, config)
    steps(straight, first, 3)
    resumed = Network()
    resumed.load_state_dict(straight.state_dict())
    second = Optimizers(resumed, config)
    second.load_state_tensors({name: t.clone() for name, t in first.state_tensors().items()})
    steps(straight, first, 2)
    steps(resumed, second, 2)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
