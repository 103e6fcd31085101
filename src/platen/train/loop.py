"""The training loop: from a model and its batches to its best and last weights.

One loop serves every architecture, one process or many, fresh or resumed. All that a run is at a moment is
in `TrainState`, the weights and the optimizer's state; random numbers follow from the seed and the step, so
a run continued from a checkpoint takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.core.errors import TrainingError
from platen.core.progress import Progress, Task, Tracker
from platen.models.training_history import History
from platen.train.checkpoint import Checkpoint, CheckpointStore, TrainState, load_weights, weights_of
from platen.train.config import TrainConfig
from platen.train.data import IGNORE, Batch, PackedLoader
from platen.train.distributed import World
from platen.train.optimizer import Optimizers
from platen.train.schedule import StopReason, Used, progress, rate_factor, reached

SMOOTHING = 0.95
"""Share of the old value in the smoothed loss that the divergence watch looks at."""
PATIENT_STEPS = 20
"""Steps before the watch minds a loss above the first one."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `seconds` of wall-clock time over all its resumptions."""

    reason: StopReason
    state: TrainState


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of (B, T, V) logits, in nats, over the targets (B, T) that count.

    A batch without any such target has loss 0 and gradient 0.
    """
    return F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def bfloat16_in_hardware(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context that a forward pass runs in; weights and the optimizer stay in float32."""
    if precision == "bfloat16" or (precision == "auto" and bfloat16_in_hardware(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the random numbers of a step (dropout) depend on nothing but the seed, the step and the rank."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


class Trainer:
    """Trains `model` on the batches of `loader`; see `run`."""

    def __init__(
        self,
        model: nn.Module,
        loader: PackedLoader,
        evaluation: list[Batch],
        config: TrainConfig,
        *,
        seed: int,
        world: World,
        checkpoints: CheckpointStore,
        history: Path,
        progress: Progress,
        tracker: Tracker,
    ) -> None:
        self.model = model.to(world.device)
        self.loader = loader
        self.evaluation = evaluation
        self.config = config
        self.seed = seed
        self.world = world
        self.checkpoints = checkpoints
        self.progress = progress
        self.tracker = tracker
        self.optimizers = Optimizers(self.model, config)
        self.state = TrainState()
        self.history = History(history, write=world.first)
        self._parallel = world.wrap(self.model)
        self._forward = torch.compile(self._parallel) if config.compile else self._parallel
        self._step_seconds = 0.0

    def run(self) -> Outcome:
        """Train until a limit is reached, from the newest checkpoint if there is one.

        Raises TrainingError when the loss is no number or rises above its start.
        """
        self._resume()
        started = time.perf_counter() - self.state.seconds
        with self.progress.task("training", total=1.0) as task:
            while (reason := self._limit()) is None:
                self._step(started, task)
                step = self.state.step
                if step % self.config.evaluate_every == 0:
                    self._evaluate()
                if step % self.config.checkpoint_every == 0:
                    self._save()
        if self.state.evaluated_step != self.state.step:
            self._evaluate()
        self._save()
        return Outcome(reason, self.state)

    def best_weights(self) -> dict[str, Tensor]:
        """Weights of the best evaluation, after `run`."""
        return self.checkpoints.load_best(self.state.best_step)

    # -- a step -------------------------------------------------------------------------------------

    def _limit(self) -> StopReason | None:
        used = Used(self.state.step, self.state.tokens, self.state.seconds)
        return reached(self.config, used, self.state.evaluations_without_gain)

    def _step(self, started: float, task: Task) -> None:
        state, begun = self.state, time.perf_counter()
        after = Used(
            state.step + 1,
            state.tokens + self.loader.tokens_per_batch,
            state.seconds + self._step_seconds,
        )
        factor = rate_factor(self.config, progress(self.config, after))
        self.optimizers.set_rate(factor)
        loss = self._backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf))
        smooth = self._watch(loss, norm)
        self.optimizers.step()
        self.optimizers.zero_grad()
        now = self.world.from_first(time.perf_counter())
        self._step_seconds = now - self.world.from_first(begun)
        self.state = replace(
            state,
            step=after.steps,
            tokens=after.tokens,
            seconds=now - self.world.from_first(started),
            first_loss=loss if state.first_loss is None else state.first_loss,
            smooth_loss=smooth,
        )
        self._report(loss, norm, factor, task)

    def _backward(self) -> float:
        """Gradients of the mean loss over the step's batch, in micro-batches; the loss, in nats per token."""
        seed_step(self.seed, self.state.step, self.world.rank)
        batch = self.loader.batch(self.state.step, rank=self.world.rank, world_size=self.world.size)
        count = max(1.0, self.world.total(float((batch.targets != IGNORE).sum())))
        pieces = list(
            zip(
                batch.inputs.chunk(self.config.accumulation),
                batch.targets.chunk(self.config.accumulation),
                strict=True,
            )
        )
        total = 0.0
        self.model.train()
        for number, (inputs, targets) in enumerate(pieces, start=1):
            with self._synchronized(number == len(pieces)):
                with autocast(self.config.precision, self.world.device):
                    logits = self._forward(inputs.to(self.world.device))
                loss = token_loss(logits, targets.to(self.world.device))
                # The processes' gradients are averaged, so each counts its own for as many as there are.
                (loss * (self.world.size / count)).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return self.world.total(total) / count

    def _synchronized(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once a step, in its last micro-batch."""
        if last or self.world.size == 1:
            return contextlib.nullcontext()
        return self._parallel.no_sync()  # type: ignore[operator, no-any-return]

    def _watch(self, loss: float, norm: float) -> float:
        """The smoothed loss. Raises TrainingError when the run has diverged."""
        first, smooth = self.state.first_loss, self.state.smooth_loss
        smooth = loss if smooth is None else SMOOTHING * smooth + (1 - SMOOTHING) * loss
        step = self.state.step + 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"Training diverged: the loss at step {step} is {loss:g}, its gradient's norm {norm:g}."
        elif first is not None and step > PATIENT_STEPS and smooth > first:
            what = (
                f"Training diverged: at step {step} the loss is {smooth:.3f}, above its start, {first:.3f}."
            )
        else:
            return smooth
        raise TrainingError(what, hint=self._advice())

    def _advice(self) -> str:
        config = self.config
        advice = [f"lower train.learning_rate (now {config.learning_rate:g})"]
        if config.optimizer == "muon":
            advice.append(f"lower train.muon_learning_rate (now {config.muon_learning_rate:g})")
        if config.warmup < 0.02:
            advice.append(f"warm up longer (train.warmup is {config.warmup:g})")
        if config.grad_clip is None or config.grad_clip > 1:
            advice.append("clip gradients (train.grad_clip: 1.0)")
        return "; or ".join(advice)

    def _report(self, loss: float, norm: float, factor: float, task: Task) -> None:
        state, rate = self.state, self.loader.tokens_per_batch / max(self._step_seconds, 1e-9)
        self.history.append(
            {
                "step": state.step,
                "tokens": state.tokens,
                "loss": loss,
                "learning_rate": factor * self.config.learning_rate,
                "gradient_norm": norm,
                "tokens_per_second": round(rate, 1),
            }
        )
        if state.step % 10 == 0 and self.world.first:
            metrics = {"loss": loss, "learning_rate": factor * self.config.learning_rate}
            self.tracker.log({**metrics, "gradient_norm": norm, "tokens_per_second": rate}, state.step)
        share = progress(self.config, Used(state.step, state.tokens, state.seconds))
        note = f"step {state.step} · loss {state.smooth_loss:.3f} · {rate / 1000:.1f}k tok/s"
        task.update(share, note=note)

    # -- evaluation and checkpoints -----------------------------------------------------------------

    def _evaluate(self) -> None:
        """Score the validation batches; keep the weights when they are the best so far."""
        loss = self.world.from_first(mean_loss(self.model, self.evaluation, self.config, self.world.device))
        self.state = state = replace(self.state, evaluated_step=self.state.step)
        self.history.append({"step": state.step, "tokens": state.tokens, "validation_loss": loss})
        if self.world.first:
            self.tracker.log({"validation_loss": loss}, state.step)
        if state.best_loss is not None and not loss < state.best_loss:
            self.state = replace(state, evaluations_without_gain=state.evaluations_without_gain + 1)
            return
        self.state = replace(state, best_loss=loss, best_step=state.step, evaluations_without_gain=0)
        if self.world.first:
            self.checkpoints.save_best(state.step, weights_of(self.model))

    def _save(self) -> None:
        if self.world.first:
            self.state = replace(self.state, history_bytes=self.history.sync())
            self.checkpoints.save(
                Checkpoint(self.state, weights_of(self.model), self.optimizers.state_tensors())
            )
        self.world.wait()

    def _resume(self) -> None:
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            self.history.cut(0)
            return
        load_weights(self.model, checkpoint.weights)
        self.optimizers.load_state_tensors(checkpoint.optimizer)
        self.state = checkpoint.state
        self.history.cut(self.state.history_bytes)
        self.progress.say(f"Continuing from step {self.state.step}.")


def mean_loss(model: nn.Module, batches: list[Batch], config: TrainConfig, device: torch.device) -> float:
    """Mean loss in nats per token over `batches`, without dropout; the model is left in eval mode."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode(), autocast(config.precision, device):
        for batch in batches:
            total += token_loss(model(batch.inputs.to(device)), batch.targets.to(device)).item()
            count += int((batch.targets != IGNORE).sum())
    return total / max(1, count)
