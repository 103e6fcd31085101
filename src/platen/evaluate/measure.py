"""The stage `evaluate`: a model against the held-out text, as a report, plots and metrics.

Everything but the timings is the same on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from platen.core import plots
from platen.core.errors import ConfigError
from platen.core.kinds.data_splits import DataSplits
from platen.core.metrics import Metric
from platen.core.stage import StageContext, StageResult
from platen.evaluate.config import EvaluateConfig
from platen.evaluate.evaluation_report import Report
from platen.evaluate.measured import Measured, Spread, extremes
from platen.evaluate.metrics import METRICS, OWN
from platen.evaluate.perplexity import batch_size_for, loss_by_position, sliding_window_nll
from platen.evaluate.samples import Sample, write_samples
from platen.evaluate.session import EngineSession
from platen.evaluate.subject import SplitText, Subject, open_subject, read_split

Context = StageContext[EvaluateConfig]


def evaluate(ctx: Context) -> StageResult:
    """Score the input model on a split of the inputs `data` and `tokens`.

    Writes `report.json`, `report.md`, `loss_by_position.png` and `window_losses.png`. Raises DataError for
    an empty split, ConfigError for a stride longer than the context window or an unknown metric, BundleError
    for a model that can't be opened.
    """
    config, model = ctx.config, ctx.input("model", "baseline")
    further = _further(config.metrics)
    data = ctx.input("data").path
    with open_subject(model.path, config.device) as subject:
        stride = _stride(config, subject.context)
        text = read_split(ctx.input("tokens").path, data, config.split, subject.tokenizer)
        measured = _measure(ctx, subject, text, stride, model.path)
    digest = DataSplits(data).sha256(config.split)
    values = {metric.name: metric.measure(measured) for metric in (*OWN, *further) if metric.measure}
    report = _report(ctx, measured, stride, digest, {metric.name: values[metric.name] for metric in further})
    plots.loss_by_position(ctx.out / "loss_by_position.png", measured.positions.tolist(), measured.score.loss)
    plots.window_losses(ctx.out / "window_losses.png", measured.windows, measured.context)
    report.write(ctx.out)
    best = report.best_context()
    if best is not None:
        ctx.progress.say(f"The model predicts worse beyond about {best} tokens of context; see report.md.")
    notes = {"split": config.split, "stride": str(stride), "evaluated_text": digest}
    return StageResult(metrics=values, notes=notes)


def _further(names: Sequence[str]) -> list[Metric[Measured]]:
    """The metrics that the project file asks for beside our own. Raises ConfigError."""
    known = METRICS.all()
    own = {metric.name for metric in OWN}
    for name in names:
        if name not in known:
            others = ", ".join(sorted(known.keys() - own)) or "none; packages bring them"
            raise ConfigError(f"evaluate.metrics: there is no metric {name!r}", hint=f"there are: {others}")
    return [known[name] for name in dict.fromkeys(names) if name not in own]


def _stride(config: EvaluateConfig, context: int) -> int:
    if config.stride is not None and config.stride > context:
        raise ConfigError(
            f"evaluate.stride ({config.stride}) is more than the model's context window ({context}).",
            hint=f"set it to {context} or less, or leave it out for half the window",
        )
    return config.stride or max(1, context // 2)


def _measure(ctx: Context, subject: Subject, text: SplitText, stride: int, model: Path) -> Measured:
    context, tokenizer = subject.context, subject.tokenizer
    batch_size = batch_size_for(context, tokenizer.vocab_size)
    # The first token is not scored: its bytes (none, when it marks the beginning) are not divided by.
    unscored = len(tokenizer.decode([int(text.ids[0])]).encode())
    score = sliding_window_nll(
        subject.scorer,
        text.ids,
        context=context,
        stride=stride,
        byte_count=text.bytes - unscored,
        batch_size=batch_size,
        progress=ctx.progress,
    )
    return Measured(
        score=score,
        text=text,
        positions=loss_by_position(subject.scorer, text.ids, context=context, batch_size=batch_size),
        samples=tuple(_samples(ctx, model)),
        tokenizer=tokenizer,
        context=context,
        parameters=subject.parameters,
    )


def _samples(ctx: Context, model: Path) -> list[Sample]:
    config = ctx.config
    if not config.sample_tokens or not config.prompts:
        return []
    with ctx.progress.task("generate samples"), EngineSession(model, config.device) as session:
        return write_samples(
            session,
            config.prompts,
            max_tokens=config.sample_tokens,
            temperature=config.temperature,
            seed=ctx.seed,
        )


def _report(ctx: Context, measured: Measured, stride: int, digest: str, further: dict[str, float]) -> Report:
    score = measured.score
    hardest, easiest = extremes(measured.documents)
    return Report(
        model=ctx.input("model", "baseline").manifest.ref,
        split=ctx.config.split,
        evaluated_text=digest,
        parameters=measured.parameters,
        vocab_size=measured.tokenizer.vocab_size,
        context=measured.context,
        stride=stride,
        tokens=score.tokens,
        bytes=score.bytes,
        documents=len(measured.text.documents),
        loss=score.loss,
        perplexity=score.perplexity,
        bits_per_byte=score.bits_per_byte,
        tokens_per_second=score.tokens_per_second,
        token_loss=measured.token_loss,
        window_loss=Spread.of(measured.windows),
        document_bits_per_byte=measured.document_bits_per_byte,
        hardest=hardest,
        easiest=easiest,
        loss_by_position=tuple(measured.positions.tolist()),
        samples=measured.samples,
        temperature=ctx.config.temperature,
        seed=ctx.seed,
        further=further,
    )
