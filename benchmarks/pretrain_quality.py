"""Five minutes of training on a laptop's cores: bits per byte of Shakespeare never read.

    python benchmarks/pretrain_quality.py [--minutes 5] [--quick] [--json FILE] [--only NAME ...]

The plays of examples/shakespeare, joined, are cut at 90 / 10 percent of their characters. Each contestant
trains on the first part for the same wall-clock time; all of the second part is then scored with a sliding
window (each token once, with at least half the window to its left), and its nats become bits per UTF-8 byte,
so that tokenizers do not matter. Tokenizers are trained on the first part alone.

ours          the tokenizer, tokens and train stages with the values of examples/shakespeare/platen.yaml
transformers  LlamaForCausalLM, 2.85 million parameters, a plain loop: the same tokens, 16 x 128 a step, AdamW
              2e-3 with linear decay, bfloat16 autocast
nanogpt       a character GPT at the settings that nanoGPT's README gives for a CPU (4 layers, 4 heads, width
              128, block 64, batch 12, no dropout, AdamW 1e-3 to 1e-4 by a cosine), for the same time
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _harness import Result, options, report
from _peers import CharacterGPT, LogitsOnly, transformers_llama
from numpy.typing import NDArray

from platen.core.artifacts import Artifact, Manifest
from platen.core.config import Section
from platen.core.stage import StageContext
from platen.evaluate.perplexity import sliding_window_nll
from platen.evaluate.scorer import TorchScorer
from platen.models.bundle import open_bundle
from platen.project.file import load_project
from platen.tokens.files import TokenFiles
from platen.tokens.train import encode_corpus, train_tokenizer
from platen.train.config import PretrainConfig
from platen.train.data import PackedLoader
from platen.train.loop import autocast
from platen.train.pretrain import pretrain

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "shakespeare"
BAR = 2.15


@dataclass(frozen=True)
class Score:
    bits_per_byte: float
    parameters: int
    tokens: int
    seconds: float
    context: int
    stride: int

    def describe(self, name: str) -> str:
        return (
            f"{name:13} {self.bits_per_byte:.4f} bits/byte   {self.parameters:>9,} parameters   "
            f"{self.tokens:>9,} tokens in {self.seconds:.0f} s ({self.tokens / self.seconds:,.0f}/s)   "
            f"window {self.context}, stride {self.stride}"
        )


@dataclass(frozen=True)
class Task:
    """The text, cut, and the folder to work in."""

    train: str
    validation: str
    minutes: float
    folder: Path

    def artifact(self, name: str) -> Artifact:
        manifest = Manifest(
            name=name,
            kind=name,
            fingerprint="0" * 16,
            code_version=1,
            config={},
            created_at=datetime.now(UTC),
            duration_s=0,
        )
        return Artifact(self.folder / name, manifest)

    def context(self, name: str, config: Section, *inputs: str, seed: int = 1337) -> StageContext:
        out = self.folder / name
        out.mkdir(exist_ok=True)
        return StageContext(
            name=name,
            fingerprint="0" * 16,
            config=config,
            inputs={role: self.artifact(role) for role in inputs},
            out=out,
            project_dir=EXAMPLE,
            seed=seed,
        )


def prepare(task: Task) -> None:
    """Run the tokenizer and tokens stages on the cut text."""
    project = load_project(EXAMPLE).project
    data = task.folder / "data"
    data.mkdir()
    for split, text in (("train", task.train), ("validation", task.validation), ("test", "")):
        row = json.dumps({"id": split, "text": text, "source": split})
        (data / f"{split}.jsonl").write_text(row + "\n" if text else "", encoding="utf-8")
    train_tokenizer(task.context("tokenizer", project.tokenizer, "data"))
    encode_corpus(task.context("tokens", Section(), "data", "tokenizer"))


def score(
    model: torch.nn.Module, ids: NDArray[np.generic], byte_count: int, context: int
) -> tuple[float, int]:
    stride = context // 2
    model.eval()
    with autocast("auto", torch.device("cpu")):
        found = sliding_window_nll(
            TorchScorer(model), ids, context=context, stride=stride, byte_count=byte_count
        )
    return found.bits_per_byte, stride


def validation_ids(task: Task) -> NDArray[np.unsignedinteger]:
    return TokenFiles(task.folder / "tokens").open("validation")


def ours(task: Task) -> Score:
    project = load_project(EXAMPLE).project
    train = project.training().model_copy(update={"minutes": task.minutes, "steps": None, "tokens": None})
    ctx = task.context("train", PretrainConfig(model=project.model, train=train), "tokens", "tokenizer")
    result = pretrain(ctx)
    bundle = open_bundle(ctx.out)
    context = train.sequence_length
    bpb, stride = score(bundle.model, validation_ids(task), len(task.validation.encode()), context)
    metrics = result.metrics
    return Score(bpb, int(metrics["parameters"]), int(metrics["tokens"]), metrics["seconds"], context, stride)


def transformers(task: Task) -> Score:
    tokens = TokenFiles(task.folder / "tokens")
    meta, ids = tokens.meta, tokens.open("train")
    data = PackedLoader(ids, sequence_length=128, batch_size=16, seed=1337)
    torch.manual_seed(1337)
    model = transformers_llama(meta.vocab_size).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def step(number: int, share: float) -> None:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - share)
        rows = data.batch(number).inputs
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    steps, seconds = _for_minutes(task.minutes, step)
    bpb, stride = score(LogitsOnly(model), validation_ids(task), len(task.validation.encode()), 128)
    return Score(bpb, model.num_parameters(), steps * 16 * 128, seconds, 128, stride)


def nanogpt(task: Task) -> Score:
    block, batch = 64, 12
    characters = sorted(set(task.train + task.validation))
    index = {character: place for place, character in enumerate(characters)}
    ids = torch.tensor([index[character] for character in task.train])
    torch.manual_seed(1337)
    model = CharacterGPT(len(characters), block)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
    )

    def step(number: int, share: float) -> None:
        rate = 1e-4 + 9e-4 * 0.5 * (1 + np.cos(np.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / 100)
        starts = torch.randint(len(ids) - block, (batch,))
        rows = torch.stack([ids[start : start + block + 1] for start in starts])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    steps, seconds = _for_minutes(task.minutes, step)
    text = np.array([index[character] for character in task.validation])
    bpb, stride = score(model, text, len(task.validation.encode()), block)
    parameters = sum(p.numel() for p in model.parameters())
    return Score(bpb, parameters, steps * batch * block, seconds, block, stride)


def _for_minutes(minutes: float, step: Callable[[int, float], None]) -> tuple[int, float]:
    """Call `step(number, share of the time used)` until the time is up: (steps, seconds)."""
    began, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < minutes * 60:
        step(steps, seconds / (minutes * 60))
        steps += 1
    return steps, seconds


CONTESTANTS = {"ours": ours, "transformers": transformers, "nanogpt": nanogpt}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each (default: 5)")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--corpus", type=Path, help="another text (default: the example's plays, joined)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plays = [arguments.corpus] if arguments.corpus else sorted((EXAMPLE / "corpus").glob("*.txt"))
    text = "".join(play.read_text(encoding="utf-8") for play in plays)
    cut = len(text) * 9 // 10
    minutes = 0.12 if arguments.quick else arguments.minutes
    scores: dict[str, Score] = {}
    with tempfile.TemporaryDirectory() as folder:
        task = Task(text[:cut], text[cut:], minutes, Path(folder))
        prepare(task)
        for name in arguments.only:
            scores[name] = CONTESTANTS[name](task)
            print(scores[name].describe(name), flush=True)
    if "ours" not in scores:
        return
    mine = scores["ours"].bits_per_byte
    results = [
        Result(
            f"pretrain_quality_vs_{name}",
            mine,
            found.bits_per_byte,
            found.bits_per_byte / mine,
            "bits per byte",
            peer_name=name,
            details={"ours": vars(scores["ours"]), "peer": vars(found), "minutes": minutes, "bar": BAR},
        )
        for name, found in scores.items()
        if name != "ours"
    ]
    report(results, json_file=arguments.json, quick=arguments.quick)


if __name__ == "__main__":
    main()
