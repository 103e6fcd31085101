"""The stages `tokenizer` and `tokens`: learn a tokenizer, then turn each split into a file of token ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from platen.project import TokenizerConfig
from platen.stages import StageContext, StageResult, Task
from platen.tokens.files import SPLITS, write_splits
from platen.tokens.learn import learn_tokenizer
from platen.tokens.tokenizer import Tokenizer


def train_tokenizer(ctx: StageContext) -> StageResult:
    """Stage `tokenizer`: train on the data artifact's training split; write a Hugging Face tokenizer folder.

    The same text gives the same file, byte for byte. Raises ConfigError for a chat template that can't be
    read or a vocabulary too small for its special tokens.
    """
    config: TokenizerConfig = ctx.config
    source = ctx.inputs["data"].path / "train.jsonl"
    with ctx.progress.task("reading text", total=source.stat().st_size, unit="B") as task:
        tokenizer = learn_tokenizer(_texts(source, task), config, ctx.project_dir)
    tokenizer.save(ctx.out)
    notes = {}
    if tokenizer.vocab_size < config.vocab_size:
        notes["vocabulary"] = (
            f"{tokenizer.vocab_size} entries of the {config.vocab_size} asked for: the text has no more "
            f"pieces that occur {config.min_frequency} times"
        )
        ctx.progress.say(f"Vocabulary: {notes['vocabulary']}.")
    return StageResult(metrics={"vocab_size": float(tokenizer.vocab_size)}, notes=notes)


def encode_corpus(ctx: StageContext) -> StageResult:
    """Stage `tokens`: write `train.bin`, `validation.bin`, `test.bin` and `meta.json`.

    Memory stays bounded by the longest document.
    """
    tokenizer = Tokenizer.from_dir(ctx.inputs["tokenizer"].path)
    data = ctx.inputs["data"].path
    texts = {name: _split_texts(ctx, data / f"{name}.jsonl") for name in SPLITS}
    splits = write_splits(ctx.out, tokenizer, texts).splits
    metrics = {f"{name}_tokens": float(split.tokens) for name, split in splits.items()}
    train = splits["train"]
    return StageResult(metrics=metrics | {"bytes_per_token": train.bytes / train.tokens})


def _split_texts(ctx: StageContext, source: Path) -> Iterator[str]:
    """The texts of a split, with a bar while they are read."""
    with ctx.progress.task(f"encoding {source.stem}", total=source.stat().st_size, unit="B") as task:
        yield from _texts(source, task)


def _texts(source: Path, task: Task) -> Iterator[str]:
    """The texts of a split, one at a time, moving `task` on by the bytes read."""
    done = 0
    with source.open("rb") as lines:
        for line in lines:
            yield json.loads(line)["text"]
            done += len(line)
            task.update(done)
