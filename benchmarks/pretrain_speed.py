"""Our training step against transformers: the same Llama, tokens, dtype and threads.

    python benchmarks/pretrain_speed.py [--quick] [--json FILE]

2.85 million parameters, 16 x 128 tokens a step, AdamW, gradients clipped at 1, bfloat16 autocast. `ours` is
`platen.train`'s whole step with its loader, history and divergence watch; `loop` is LlamaForCausalLM in a
plain PyTorch loop; `Trainer` is transformers' own. They take turns; each number is the median step of a turn,
and of the turns. Ends with one line: tokens a second, ours and the faster peer's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _harness import Result, interleaved, median_step_seconds, options, report
from _peers import transformers_llama

from platen.core.progress import NullTracker, SilentProgress
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.training_history import read_curves
from platen.train.checkpoint import CheckpointStore
from platen.train.config import TrainConfig
from platen.train.data import PackedLoader
from platen.train.distributed import World
from platen.train.loop import Trainer

VOCABULARY, BATCH, LENGTH, WARMUP = 1024, 16, 128, 3


def loader() -> PackedLoader:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.uint16)
    return PackedLoader(ids, sequence_length=LENGTH, batch_size=BATCH, seed=0)


def ours(steps: int) -> float:
    """Median step of a run of `platen.train`, read from its own record."""
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(VOCABULARY, 192, 512, 6, 6, 6, 32, 256, tie_word_embeddings=True))
    config = TrainConfig(
        steps=WARMUP + steps, precision="bfloat16", evaluate_every=10**6, checkpoint_every=10**6
    )
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / "history.jsonl"
        Trainer(
            model,
            loader(),
            [loader().batch(0)],
            config,
            seed=0,
            world=World(0, 1, torch.device("cpu")),
            checkpoints=CheckpointStore(Path(folder) / "checkpoint"),
            history=history,
            progress=SilentProgress(),
            tracker=NullTracker(),
        ).run()
        rates = read_curves(history).tokens_per_second[WARMUP:]
    return BATCH * LENGTH / statistics.median(rates)


def plain_loop(steps: int) -> float:
    torch.manual_seed(0)
    model, data = transformers_llama(VOCABULARY).train(), loader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    done = 0

    def step() -> None:
        nonlocal done
        ids = data.batch(done).inputs
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        done += 1

    return median_step_seconds(step, warmup=WARMUP, steps=steps)


def trainer(steps: int) -> float:
    from transformers import Trainer as HFTrainer
    from transformers import TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    data = loader()
    rows = torch.cat([data.batch(step).inputs for step in range(WARMUP + steps)])
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=WARMUP + steps,
            learning_rate=2e-3,
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        HFTrainer(
            model=transformers_llama(VOCABULARY),
            args=arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            callbacks=[Clock()],
        ).train()
    return statistics.median(b - a for a, b in zip(ends[WARMUP - 1 :], ends[WARMUP:], strict=False))


def main() -> None:
    parser = options(__doc__ or "")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps, rounds = (4, 2) if arguments.quick else (20, 5)
    seen = interleaved(
        {
            "ours": lambda: ours(steps),
            "loop": lambda: plain_loop(steps),
            "Trainer": lambda: trainer(steps),
        },
        rounds,
    )
    rate = {name: BATCH * LENGTH / statistics.median(times) for name, times in seen.items()}
    for name, value in rate.items():
        turns = ", ".join(f"{seconds * 1000:.0f}" for seconds in seen[name])
        print(f"{name:8} {value:8.0f} tokens/s   (ms a step: {turns})")
    peer = max(("loop", "Trainer"), key=lambda name: rate[name])
    result = Result(
        "pretrain_speed",
        rate["ours"],
        rate[peer],
        rate["ours"] / rate[peer],
        "tokens/s",
        peer_name=f"transformers {peer}",
        details={"seconds_per_step": seen, "threads": arguments.threads},
    )
    report([result], json_file=arguments.json, quick=arguments.quick)


if __name__ == "__main__":
    main()
