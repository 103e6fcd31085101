"""The stage `train`: from packed tokens to a model that has read them.

Builds the network of the project file, trains it and leaves a bundle with the best weights, beside a folder
`training` with the record, its curves, a summary and the last weights. A killed run continues from its
newest checkpoint. Under `torchrun` every process calls `pretrain` with the same context.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from platen.core.artifacts import Artifact
from platen.core.errors import BundleError, ConfigError, TrainingError
from platen.core.files import write_synced
from platen.core.stage import StageContext, StageResult
from platen.models import ladder
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.from_project import llama_config
from platen.models.bundle import model_card, open_bundle, save_bundle
from platen.models.generation_config import FILE as GENERATION_FILE
from platen.models.training_history import TrainingRecord, read_curves
from platen.tokens.convert import open_tokenizer
from platen.tokens.files import TokenFiles
from platen.tokens.tokenizer import Tokenizer
from platen.train.checkpoint import CheckpointStore, load_weights, to_bytes, weights_of
from platen.train.config import PretrainConfig, TrainConfig
from platen.train.curves import draw
from platen.train.data import PackedLoader, evaluation_batches
from platen.train.distributed import joined
from platen.train.loop import Outcome, Trainer


@dataclass(frozen=True)
class Summary:
    """What a run came to; losses in nats per token, `passes` over the training split."""

    parameters: int
    steps: int
    tokens: int
    tokens_per_parameter: float
    passes: float
    train_loss: float
    validation_loss: float
    best_step: int
    stopped_by: str
    seconds: float
    tokens_per_second: float

    def metrics(self) -> dict[str, float]:
        return {key: float(value) for key, value in vars(self).items() if not isinstance(value, str)}


def pretrain(ctx: StageContext[PretrainConfig]) -> StageResult:
    """Train the model of `ctx.config`, or go on with the one among the inputs, on the input `tokens`.

    Raises TrainingError when the corpus is too small or training diverges, BundleError when the tokens were
    made by another tokenizer, ConfigError for sequences longer than the model's window.
    """
    config = ctx.config
    base = ctx.find("model")
    tokens, tokenizer = _inputs(ctx)
    _check_compiler(config.train)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    ignore = tokenizer.pad_id if tokenizer.pad_id != tokenizer.eos_id else None
    with joined(config.train.batch_size, config.train.accumulation, config.train.device) as world:
        torch.manual_seed(ctx.seed)
        model = build_model(config, tokenizer) if base is None else open_base(base.path, config.train)
        loader = PackedLoader(
            tokens.open("train"),
            sequence_length=config.train.sequence_length,
            batch_size=config.train.batch_size,
            seed=ctx.seed,
            ignore_id=ignore,
        )
        trainer = Trainer(
            model,
            loader,
            evaluation_batches(
                tokens.open("validation"),
                sequence_length=config.train.sequence_length,
                batch_size=max(1, config.train.batch_size // config.train.accumulation),
                max_tokens=config.train.evaluate_tokens,
                ignore_id=ignore,
            ),
            config.train,
            seed=ctx.seed,
            world=world,
            checkpoints=CheckpointStore(ctx.out / "checkpoint"),
            history=TrainingRecord(ctx.out).history,
            progress=ctx.progress,
            tracker=ctx.tracker,
        )
        if world.first:
            ctx.tracker.params(config.model_dump(mode="json"))
        outcome = trainer.run()
        summary = _finish(ctx, trainer, outcome, tokenizer, base) if world.first else None
        world.wait()
    return StageResult(summary.metrics(), {"stopped_by": summary.stopped_by}) if summary else StageResult()


def build_model(config: PretrainConfig, tokenizer: Tokenizer) -> nn.Module:
    """The untrained network of a project file, for this tokenizer; weights from torch's random state."""
    assert config.model is not None
    if config.model.architecture != "llama":
        return ladder.build(config.model, tokenizer.vocab_size, dropout=config.train.dropout)
    return Decoder(llama_config(config.model, tokenizer.vocab_size, tokenizer), dropout=config.train.dropout)


def open_base(path: Path, config: TrainConfig) -> Decoder:
    """The network of a bundle, to be trained in float32. Raises BundleError, ConfigError."""
    bundle = open_bundle(path, dtype=torch.float32)
    window = bundle.config.max_position_embeddings
    if config.sequence_length > window:
        raise ConfigError(
            f"train.sequence_length ({config.sequence_length}) is longer than the context window of "
            f"the model to go on from ({window})",
            hint=f"set it to {window} or less",
        )
    model = Decoder(bundle.config, dropout=config.dropout)
    model.load_state_dict(bundle.model.state_dict())
    return model


def _inputs(ctx: StageContext[PretrainConfig]) -> tuple[TokenFiles, Tokenizer]:
    tokens = TokenFiles(ctx.input("tokens").path)
    tokenizer = open_tokenizer(ctx.input("model", "tokenizer").path)
    meta = tokens.meta
    if meta.tokenizer_sha256 != tokenizer.sha256 or meta.vocab_size != tokenizer.vocab_size:
        raise BundleError(
            f"the tokens in {tokens.folder} were made by another tokenizer "
            f"({meta.vocab_size:,} entries, {meta.tokenizer_sha256[:12]}) than the one given "
            f"({tokenizer.vocab_size:,} entries, {tokenizer.sha256[:12]})",
            hint="encode the corpus again with this tokenizer: platen run tokens",
        )
    return tokens, tokenizer


def _check_compiler(config: TrainConfig) -> None:
    if (
        config.compile
        and not torch.cuda.is_available()
        and not (shutil.which("g++") or shutil.which("clang++"))
    ):
        raise TrainingError(
            "train.compile needs a C++ compiler on this machine; neither g++ nor clang++ is found.",
            hint="install one, or set train.compile: false",
        )


def _finish(
    ctx: StageContext[PretrainConfig],
    trainer: Trainer,
    outcome: Outcome,
    tokenizer: Tokenizer,
    base: Artifact | None,
) -> Summary:
    """Write the artifact from a finished run and remove what only a resumption needs."""
    record = TrainingRecord(ctx.out)
    summary = _summarize(trainer, outcome)
    write_synced(record.last_weights, to_bytes(weights_of(trainer.model)))
    write_synced(record.summary, (json.dumps(vars(summary), indent=2) + "\n").encode())
    title = (
        f"{ctx.name}: {summary.parameters:,} parameters, {summary.tokens:,} tokens seen\n"
        f"{summary.tokens_per_parameter:.2f} tokens per parameter, {summary.passes:.2f} passes over the data"
    )
    draw(read_curves(record.history), record.plot, title=title)
    load_weights(trainer.model, trainer.best_weights())
    trainer.model.eval()
    if isinstance(trainer.model, Decoder):
        save_bundle(ctx.out, trainer.model, tokenizer, card=_card(trainer.model.config, summary, base))
        if base is not None and (base.path / GENERATION_FILE).is_file():  # how its makers would sample
            shutil.copyfile(base.path / GENERATION_FILE, ctx.out / GENERATION_FILE)
    elif isinstance(trainer.model, ladder.LadderModel):
        ladder.save(ctx.out, trainer.model, tokenizer)
    ctx.progress.say(
        f"Trained {summary.parameters:,} parameters for {summary.steps:,} steps ({summary.stopped_by}): "
        f"{summary.tokens:,} tokens, {summary.passes:.1f} passes, "
        f"validation loss {summary.validation_loss:.3f} at step {summary.best_step}."
    )
    trainer.checkpoints.clear()
    return summary


def _summarize(trainer: Trainer, outcome: Outcome) -> Summary:
    state = outcome.state
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return Summary(
        parameters=parameters,
        steps=state.step,
        tokens=state.tokens,
        tokens_per_parameter=state.tokens / parameters,
        passes=trainer.loader.passes(state.step),
        train_loss=state.smooth_loss if state.smooth_loss is not None else float("nan"),
        validation_loss=state.best_loss if state.best_loss is not None else float("nan"),
        best_step=state.best_step,
        stopped_by=outcome.reason,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
    )


def _card(config: DecoderConfig, summary: Summary, base: Artifact | None) -> str:
    """The model card: what a reader needs to judge the model. The same for the same training."""
    start = (
        "Pretrained from random weights" if base is None else f"Pretraining went on from {base.manifest.ref}"
    )
    return model_card(
        config,
        body=f"""\
{start}; these are the weights of the best evaluation on the validation split.

| | |
| --- | --- |
| steps, tokens seen | {summary.steps:,}, {summary.tokens:,} |
| tokens per parameter | {summary.tokens_per_parameter:.2f} |
| passes over the training text | {summary.passes:.2f} |
| validation loss | {summary.validation_loss:.4f} nats per token, at step {summary.best_step} |

The model has only read its training text: it has not been taught to follow instructions or to refuse, and
what it says may be false.
""",
    )
