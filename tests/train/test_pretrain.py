"""Pretraining as a stage: what it leaves, when it stops, what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from platen.core.errors import BundleError, TrainingError
from platen.core.stage import StageContext
from platen.models.bundle import open_bundle
from platen.models.config import ModelConfig
from platen.tokens.tokenizer import Tokenizer
from platen.train.data import IGNORE
from platen.train.loop import seed_step, token_loss
from platen.train.pretrain import build_model, pretrain

from .conftest import ContextMaker, artifact, write_tokens


def history(ctx: StageContext) -> list[dict[str, float]]:
    lines = (ctx.out / "training" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(ctx: StageContext) -> list[float]:
    return [row["loss"] for row in history(ctx) if "loss" in row]


def test_leaves_a_bundle_with_the_best_weights(context: ContextMaker) -> None:
    ctx = context(steps=30, learning_rate=1e-2)
    result = pretrain(ctx)
    bundle = open_bundle(ctx.out)
    summary = json.loads((ctx.out / "training" / "summary.json").read_text())
    assert summary["steps"] == 30
    assert summary["tokens"] == 30 * 8 * 16
    assert summary["parameters"] == sum(p.numel() for p in bundle.model.parameters())
    assert summary["passes"] == pytest.approx(30 * 8 * 16 / 5000)
    assert summary["tokens_per_parameter"] == pytest.approx(3840 / summary["parameters"])
    assert result.notes["stopped_by"] == "steps"
    assert result.metrics["validation_loss"] == summary["validation_loss"]
    assert {p.name for p in (ctx.out / "training").iterdir()} == {
        "curves.png",
        "history.jsonl",
        "last.safetensors",
        "summary.json",
    }
    assert not (ctx.out / "checkpoint").exists()
    # The best evaluation was the last, so best and last weights are the same.
    assert summary["best_step"] == 30
    last = load_file(ctx.out / "training" / "last.safetensors")
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, last[name]), name


def test_the_loss_starts_at_ln_vocabulary_and_falls(context: ContextMaker, tiny_tokenizer: Tokenizer) -> None:
    ctx = context(steps=40, learning_rate=1e-2)
    pretrain(ctx)
    curve = losses(ctx)
    assert curve[0] == pytest.approx(math.log(tiny_tokenizer.vocab_size), abs=0.1)
    assert curve[-1] < curve[0] - 1
    evaluations = [row for row in history(ctx) if "validation_loss" in row]
    assert [row["step"] for row in evaluations] == [10, 20, 30, 40]
    assert evaluations[-1]["validation_loss"] < evaluations[0]["validation_loss"]


def test_the_same_seed_gives_the_same_bytes(context: ContextMaker) -> None:
    runs = [context(out, steps=8, dropout=0.1) for out in ("a", "b")]
    for ctx in runs:
        pretrain(ctx)
    assert losses(runs[0]) == losses(runs[1])
    for name in ("model.safetensors", "config.json", "README.md", "tokenizer.json"):
        assert (runs[0].out / name).read_bytes() == (runs[1].out / name).read_bytes(), name
    other = context("c", steps=8, dropout=0.1, seed=4)
    pretrain(other)
    assert losses(other) != losses(runs[0])


def test_accumulation_is_the_big_batch(context: ContextMaker) -> None:
    whole, cut = context("a", steps=6), context("b", steps=6, accumulation=4)
    pretrain(whole)
    pretrain(cut)
    assert losses(cut) == pytest.approx(losses(whole), abs=2e-6)
    a, b = (load_file(ctx.out / "training" / "last.safetensors") for ctx in (whole, cut))
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bfloat16_follows_float32(context: ContextMaker, optimizer: str) -> None:
    runs = [
        context(precision, steps=20, precision=precision, optimizer=optimizer)
        for precision in ("float32", "bfloat16")
    ]
    for ctx in runs:
        pretrain(ctx)
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=0.05)
    dtypes = {t.dtype for t in load_file(runs[1].out / "model.safetensors").values()}
    assert dtypes == {torch.float32}


def test_stops_by_tokens(context: ContextMaker) -> None:
    ctx = context(tokens=1000)  # 8 x 16 = 128 a step: the eighth reaches it
    assert pretrain(ctx).metrics["steps"] == 8


def test_stops_by_minutes(context: ContextMaker) -> None:
    ctx = context(minutes=0.02)
    result = pretrain(ctx)
    assert result.notes["stopped_by"] == "minutes"
    assert result.metrics["seconds"] >= 1.2
    assert history(ctx)[-2]["learning_rate"] < 2e-3  # the schedule followed the clock


def test_stops_by_patience_and_keeps_the_best(context: ContextMaker) -> None:
    # A rate of almost nothing: the evaluations change in the last digits, the first gains soon end.
    ctx = context(
        patience=2, schedule="constant", warmup=0.0, learning_rate=0.2, evaluate_every=2, grad_clip=None
    )
    try:
        result = pretrain(ctx)
    except TrainingError:
        pytest.fail("the run should stop before the watch minds")
    evaluations = [row["validation_loss"] for row in history(ctx) if "validation_loss" in row]
    best = evaluations.index(min(evaluations))
    assert result.notes["stopped_by"] == "patience"
    assert len(evaluations) - 1 - best == 2
    assert result.metrics["best_step"] == 2 * (best + 1)
    assert result.metrics["validation_loss"] == min(evaluations)


def test_a_diverging_run_stops_with_advice(context: ContextMaker) -> None:
    ctx = context(steps=400, learning_rate=50.0, warmup=0.0, grad_clip=None, schedule="constant")
    with pytest.raises(TrainingError, match="diverged") as caught:
        pretrain(ctx)
    assert caught.value.hint is not None
    assert "train.learning_rate (now 50)" in caught.value.hint
    assert "train.grad_clip" in caught.value.hint
    assert len(losses(ctx)) < 100


def test_tokens_of_another_tokenizer_are_refused(
    context: ContextMaker, tmp_path: Path, corpus: tuple[Path, Path]
) -> None:
    ctx = context(steps=1)
    tokens = write_tokens(
        tmp_path / "tokens",
        Tokenizer.from_dir(corpus[1]),
        {"train": np.arange(300), "validation": np.arange(50)},
    )
    meta = json.loads((tokens / "meta.json").read_text())
    (tokens / "meta.json").write_text(json.dumps(meta | {"tokenizer_sha256": "0" * 64}))
    with pytest.raises(BundleError, match="another tokenizer"):
        pretrain(replace(ctx, inputs={**ctx.inputs, "tokens": artifact(tokens, "tokens")}))


def test_a_corpus_smaller_than_a_step_is_refused(context: ContextMaker) -> None:
    with pytest.raises(TrainingError, match=r"5,000 tokens.*needs at least"):
        pretrain(context(steps=1, batch_size=400))


@pytest.mark.parametrize("rung", ["feedforward", "rmsnorm", "rope_attention", "swiglu"])
def test_every_rung_of_the_ladder_trains_through_the_same_loop(context: ContextMaker, rung: str) -> None:
    model = ModelConfig.model_validate(
        {
            "architecture": rung,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
        }
    )
    ctx = context(steps=40, model=model, learning_rate=1e-2)
    pretrain(ctx)
    assert losses(ctx)[-1] < losses(ctx)[0] - 0.3
    assert json.loads((ctx.out / "config.json").read_text())["model_type"] == "platen_ladder"


def test_targets_that_do_not_count() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 7, requires_grad=True)
    targets = torch.tensor([[3, IGNORE, 5, IGNORE]])
    log_p = torch.log_softmax(logits[0].detach(), -1)
    assert token_loss(logits, targets).item() == pytest.approx(-(log_p[0, 3] + log_p[2, 5]).item())
    nothing = token_loss(logits, torch.full((1, 4), IGNORE))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_the_random_numbers_of_a_step_depend_on_seed_step_and_rank() -> None:
    def draw(*key: int) -> list[float]:
        seed_step(*key)
        drawn: list[float] = torch.rand(3).tolist()
        return drawn

    assert draw(1, 2, 0) == draw(1, 2, 0)
    assert len({tuple(draw(*key)) for key in [(1, 2, 0), (2, 2, 0), (1, 3, 0), (1, 2, 1)]}) == 4


def test_the_network_is_the_project_files(context: ContextMaker, corpus: tuple[Path, Path]) -> None:
    ctx = context(steps=1, model=ModelConfig(hidden_size=24, intermediate_size=40, num_attention_heads=6))
    model = build_model(ctx.config, Tokenizer.from_dir(corpus[1]))
    # 320 x 24 embedding (tied), per layer 4 x 24 x 24 + 3 x 24 x 40 + 2 x 24, last norm 24; six layers.
    assert sum(p.numel() for p in model.parameters()) == 320 * 24 + 6 * (2304 + 2880 + 48) + 24
