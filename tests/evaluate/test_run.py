"""The evaluation stage on a small corpus: figures against a direct computation, and what it leaves behind."""

import json
import math
from contextlib import nullcontext

import pytest
import torch

from platen.core.artifacts import sha256_file
from platen.core.errors import ConfigError, DataError
from platen.evaluate.measure import evaluate
from platen.models import ladder
from tests.evaluate.conftest import PLAYS, artifact

TIMINGS = {"tokens_per_second"}


def report_of(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


def losses_by_hand(model, ids, context, stride):
    """The loss of every token but the first, one forward pass a token."""
    found = []
    for token in range(1, len(ids)):
        start = 0
        if token > context:
            end = min(context + math.ceil((token - context) / stride) * stride, len(ids) - 1)
            start = end - context
        logits = model(torch.tensor([ids[start:token]]))[0, -1]
        found.append(-torch.log_softmax(logits.double(), -1)[ids[token]].item())
    return found


@pytest.fixture(scope="module")
def evaluated(corpus, baseline, tmp_path_factory):
    ctx = corpus.context(baseline, tmp_path_factory.mktemp("evaluate") / "out")
    return ctx, evaluate(ctx)


@torch.no_grad()
def test_the_figures_are_those_of_a_direct_computation(evaluated, baseline, tiny_tokenizer):
    ctx, result = evaluated
    ids = []
    for text in PLAYS.values():
        ids += [*tiny_tokenizer.encode(text), tiny_tokenizer.eos_id]
    model = ladder.open(baseline.path).model
    losses = losses_by_hand(model, ids, 32, 16)
    first = len(tiny_tokenizer.decode([ids[0]]).encode())
    size = sum(len(text.encode()) for text in PLAYS.values()) - first

    assert result.metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert result.metrics["bits_per_byte"] == pytest.approx(sum(losses) / math.log(2) / size, rel=1e-5)
    assert result.metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert result.metrics["loss_p50"] == pytest.approx(sorted(losses)[len(losses) // 2], abs=0.05)
    assert result.metrics["tokens_per_second"] > 0

    report = report_of(ctx.out)
    assert report["tokens"] == len(ids) - 1
    assert (report["context"], report["stride"], report["documents"]) == (32, 16, 3)
    # Each play's own score: its tokens' losses, end mark included, over its own bytes.
    scores, start = {}, 0
    for name, text in PLAYS.items():
        stop = start + len(tiny_tokenizer.encode(text)) + 1
        scores[name] = sum(losses[max(start - 1, 0) : stop - 1]) / math.log(2) / len(text.encode())
        start = stop
    hardest, easiest = max(scores, key=scores.get), min(scores, key=scores.get)
    for listed, name in ((report["hardest"], hardest), (report["easiest"], easiest)):
        (document,) = listed
        assert document["id"] == name
        assert document["bits_per_byte"] == pytest.approx(scores[name], rel=1e-5)
    assert report["document_bits_per_byte"]["count"] == 3


def test_the_report_is_for_people_and_machines(evaluated, corpus):
    ctx, result = evaluated
    report = report_of(ctx.out)
    assert {path.name for path in ctx.out.iterdir()} == {
        "report.json",
        "report.md",
        "loss_by_position.png",
        "window_losses.png",
    }
    for name in ("loss_by_position.png", "window_losses.png"):
        assert (ctx.out / name).read_bytes().startswith(b"\x89PNG")
    assert len(report["loss_by_position"]) == 32
    assert [s["prompt"] for s in report["samples"]] == ["To be", ""]
    assert all(s["tokens"] <= 12 for s in report["samples"])
    text = (ctx.out / "report.md").read_text("utf-8")
    assert f"{report['bits_per_byte']:.4f}" in text
    assert "moves by 16" in text
    assert "hamlet" in text or "lear" in text
    assert result.notes["evaluated_text"] == sha256_file(corpus.data.path / "validation.jsonl")


def test_it_is_the_same_on_every_run_but_for_timings(evaluated, corpus, baseline, tmp_path):
    first, _ = evaluated
    again = corpus.context(baseline, tmp_path / "out")
    evaluate(again)
    one, other = report_of(first.out), report_of(again.out)
    assert {k: v for k, v in one.items() if k not in TIMINGS} == {
        k: v for k, v in other.items() if k not in TIMINGS
    }
    other_seed = corpus.context(baseline, tmp_path / "seeded")
    object.__setattr__(other_seed, "seed", 12)
    evaluate(other_seed)
    assert report_of(other_seed.out)["samples"] != one["samples"]
    assert report_of(other_seed.out)["bits_per_byte"] == one["bits_per_byte"]


def test_a_bundle_is_evaluated_like_a_baseline(corpus, tiny_bundle, tiny_llama, tmp_path):
    ctx = corpus.context(
        artifact(tiny_bundle, "train", "model"), tmp_path / "out", stride=64, sample_tokens=3
    )
    result = evaluate(ctx)
    assert result.metrics["parameters"] == tiny_llama.config.num_parameters()
    assert report_of(ctx.out)["stride"] == 64


def test_what_cannot_be_evaluated_says_why(corpus, baseline, tmp_path, tiny_tokenizer):
    with pytest.raises(ConfigError, match=r"stride \(33\) is more than .* \(32\)"):
        evaluate(corpus.context(baseline, tmp_path / "a", stride=33))
    with pytest.raises(DataError, match="test split is empty"):
        evaluate(corpus.context(baseline, tmp_path / "b", split="test"))
    meta = json.loads((corpus.tokens.path / "meta.json").read_text())
    other = tmp_path / "tokens"
    other.mkdir()
    (other / "meta.json").write_text(json.dumps(meta | {"tokenizer_sha256": "0" * 64}))
    ctx = corpus.context(baseline, tmp_path / "c")
    ctx.inputs["tokens"] = artifact(other, "tokens", "tokens")
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate(ctx)


def test_a_model_that_gets_worse_with_context_is_noticed(corpus, tmp_path, tiny_tokenizer, monkeypatch):
    """Positions past 40 get noise: what a context window longer than the training sequences looks like."""
    from platen.evaluate import measure as module
    from platen.evaluate.scorer import TorchScorer
    from platen.evaluate.subject import Subject

    class Short(torch.nn.Module):
        def forward(self, input_ids, *, logits_to_keep=0):
            sharp = torch.nn.functional.one_hot(input_ids.roll(-1, 1), tiny_tokenizer.vocab_size).float()
            strength = torch.where(torch.arange(input_ids.shape[1]) < 40, 3.0, 0.5)[None, :, None]
            return (sharp * strength)[:, -logits_to_keep:]

    subject = Subject(TorchScorer(Short()), tiny_tokenizer, 128, 0)
    monkeypatch.setattr(module, "open_subject", lambda path, device: nullcontext(subject))
    ctx = corpus.context(artifact(tmp_path, "train", "model"), tmp_path / "out", sample_tokens=0)
    evaluate(ctx)
    assert any("worse beyond about" in line for line in ctx.progress.lines)
    assert "was trained on shorter sequences" in (ctx.out / "report.md").read_text("utf-8").replace("\n", " ")
