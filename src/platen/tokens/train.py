"""The stages `tokenizer` and `tokens`: learn a tokenizer, then turn each split into a file of token ids."""

from __future__ import annotations

from platen.core.config import Section
from platen.core.kinds.data_splits import SPLITS, DataSplits
from platen.core.stage import StageContext, StageResult
from platen.tokens.config import TokenizerConfig
from platen.tokens.convert import open_tokenizer
from platen.tokens.files import write_splits
from platen.tokens.learn import learn_tokenizer
from platen.tokens.texts import read_texts


def train_tokenizer(ctx: StageContext[TokenizerConfig]) -> StageResult:
    """Stage `tokenizer`: train on the data artifact's training split; write a Hugging Face tokenizer folder.

    Raises ConfigError for a chat template that can't be read or a vocabulary too small for its special
    tokens.
    """
    config = ctx.config
    source = DataSplits(ctx.input("data").path).path("train")
    texts = read_texts([source], "reading text", ctx.progress)
    tokenizer = learn_tokenizer(texts, config, ctx.project_dir)
    tokenizer.save(ctx.out)
    notes = {}
    if tokenizer.vocab_size < config.vocab_size:
        notes["vocabulary"] = (
            f"{tokenizer.vocab_size} entries of the {config.vocab_size} asked for: the text has no more "
            f"pieces that occur {config.min_frequency} times"
        )
        ctx.progress.say(f"Vocabulary: {notes['vocabulary']}.")
    return StageResult(metrics={"vocab_size": float(tokenizer.vocab_size)}, notes=notes)


def encode_corpus(ctx: StageContext[Section]) -> StageResult:
    """Stage `tokens`: write `train.bin`, `validation.bin`, `test.bin` and `meta.json`.

    Memory stays bounded by the longest document.
    """
    tokenizer = open_tokenizer(ctx.input("tokenizer", "model").path)
    data = DataSplits(ctx.input("data").path)
    texts = {name: read_texts([data.path(name)], f"encoding {name}", ctx.progress) for name in SPLITS}
    splits = write_splits(ctx.out, tokenizer, texts).splits
    metrics = {f"{name}_tokens": float(split.tokens) for name, split in splits.items()}
    train = splits["train"]
    return StageResult(metrics=metrics | {"bytes_per_token": train.bytes / train.tokens})
