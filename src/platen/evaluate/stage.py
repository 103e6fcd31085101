"""The stage `evaluate`: a trained model against the held-out text, as a report, plots and metrics.

Everything but the timings is the same on every run.
"""

from __future__ import annotations

import numpy as np

from platen.core import plots
from platen.core.errors import ConfigError
from platen.core.kinds.data_splits import DataSplits
from platen.core.stage import StageContext, StageResult
from platen.evaluate.config import EvaluateConfig
from platen.evaluate.evaluation_report import Report, Spread, extremes, score_documents, window_losses
from platen.evaluate.perplexity import batch_size_for, loss_by_position, sliding_window_nll
from platen.evaluate.samples import write_samples
from platen.evaluate.subject import SplitText, Subject, open_subject, read_split


def evaluate(ctx: StageContext) -> StageResult:
    """Score the model of the input `train` on a split of `data` and `tokens`.

    Writes `report.json`, `report.md`, `loss_by_position.png` and `window_losses.png`. Raises DataError for
    an empty split, ConfigError for a stride longer than the context window, BundleError for a model that
    can't be opened.
    """
    config: EvaluateConfig = ctx.config
    subject = open_subject(ctx.inputs["train"].path, config.device)
    if config.stride is not None and config.stride > subject.context:
        raise ConfigError(
            f"evaluate.stride ({config.stride}) is more than the model's context window ({subject.context}).",
            hint=f"set it to {subject.context} or less, or leave it out for half the window",
        )
    data = ctx.inputs["data"].path
    text = read_split(ctx.inputs["tokens"].path, data, config.split, subject.tokenizer)
    report = _measure(ctx, config, subject, text, DataSplits(data).sha256(config.split))
    report.write(ctx.out)
    best = report.best_context()
    if best is not None:
        ctx.progress.say(f"The model predicts worse beyond about {best} tokens of context; see report.md.")
    return StageResult(
        metrics=report.metrics(),
        notes={"split": config.split, "stride": str(report.stride), "evaluated_text": report.evaluated_text},
    )


def _measure(
    ctx: StageContext, config: EvaluateConfig, subject: Subject, text: SplitText, digest: str
) -> Report:
    context = subject.context
    stride = config.stride or max(1, context // 2)
    batch_size = batch_size_for(context, subject.tokenizer.vocab_size)
    # The first token is not scored: its bytes (none, when it marks the beginning) are not divided by.
    unscored = len(subject.tokenizer.decode([int(text.ids[0])]).encode())
    score = sliding_window_nll(
        subject.model,
        text.ids,
        context=context,
        stride=stride,
        byte_count=text.bytes - unscored,
        batch_size=batch_size,
        device=subject.device,
        progress=ctx.progress,
    )
    positions = loss_by_position(
        subject.model, text.ids, context=context, batch_size=batch_size, device=subject.device
    )
    windows = window_losses(score, context)
    documents = score_documents(score, text.documents)
    hardest, easiest = extremes(documents)
    with ctx.progress.task("write samples"):
        samples = write_samples(
            subject,
            config.prompts if config.sample_tokens else (),
            max_tokens=config.sample_tokens,
            temperature=config.temperature,
            seed=ctx.seed,
        )
    plots.loss_by_position(ctx.out / "loss_by_position.png", positions.tolist(), score.loss)
    plots.window_losses(ctx.out / "window_losses.png", windows, context)
    return Report(
        model=ctx.inputs["train"].manifest.ref,
        split=config.split,
        evaluated_text=digest,
        parameters=subject.parameters,
        vocab_size=subject.tokenizer.vocab_size,
        context=context,
        stride=stride,
        tokens=score.tokens,
        bytes=score.bytes,
        documents=len(text.documents),
        loss=score.loss,
        perplexity=score.perplexity,
        bits_per_byte=score.bits_per_byte,
        tokens_per_second=score.tokens_per_second,
        token_loss=Spread.of(score.nll),
        window_loss=Spread.of(windows),
        document_bits_per_byte=Spread.of(np.array([d.bits_per_byte for d in documents])),
        hardest=hardest,
        easiest=easiest,
        loss_by_position=tuple(positions.tolist()),
        samples=tuple(samples),
        temperature=config.temperature,
        seed=ctx.seed,
    )
