"""The stages `tokenizer` and `tokens`: learn a byte-level BPE, then turn each split into a file of token ids.

The BPE cuts text like Llama 3's (letters, up to three digits, punctuation with its line ends) and has all
256 bytes, so every text has ids and comes back exactly. Token files are flat arrays to be mapped into memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from platen.errors import ConfigError, DataError
from platen.project import TokenizerConfig
from platen.stages import StageContext, StageResult, Task
from platen.tokens.chat_templates import CHAT_TEMPLATES
from platen.tokens.tokenizer import PLAIN_CHAT_TEMPLATE, Tokenizer

SPLITS = ("train", "validation", "test")
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"

_PRETOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKER = re.compile(r"<\|[A-Za-z0-9_]+\|>")
# A line end before a visible character is always a cut for the pattern above, so a long document can be
# encoded in pieces that end there, with the same ids as in one piece.
_SAFE_CUT = re.compile(r"\n(?=\S)")
_PIECE_CHARACTERS = 1_000_000
_BATCH_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class SplitTokens:
    """Size of one split: `bytes` are those of its text in UTF-8; `tokens` count the document marks too."""

    tokens: int
    bytes: int
    documents: int


@dataclass(frozen=True)
class TokensMeta:
    """`meta.json`: what one needs to read the token files."""

    dtype: str
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    splits: dict[str, SplitTokens]

    @classmethod
    def read(cls, folder: Path) -> TokensMeta:
        raw = json.loads((folder / "meta.json").read_text("utf-8"))
        splits = {name: SplitTokens(**split) for name, split in raw.pop("splits").items()}
        return cls(**raw, splits=splits)


def train_tokenizer(ctx: StageContext) -> StageResult:
    """Stage `tokenizer`: train on the data artifact's training split; write a Hugging Face tokenizer folder.

    The same text gives the same file, byte for byte. Raises ConfigError for a chat template that can't be
    read or a vocabulary too small for its special tokens.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    config: TokenizerConfig = ctx.config
    template = _chat_template(config, ctx.project_dir)
    specials = [BOS, EOS, PAD, *sorted(set(_MARKER.findall(template)) - {BOS, EOS, PAD})]
    if config.vocab_size < 256 + len(specials):
        raise ConfigError(
            f"tokenizer.vocab_size is {config.vocab_size}, but 256 bytes and {len(specials)} special tokens "
            "have to fit",
            hint=f"Set tokenizer.vocab_size to more than {256 + len(specials)}.",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRETOKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    source = ctx.inputs["data"].path / "train.jsonl"
    with ctx.progress.task("reading text", total=source.stat().st_size, unit="B") as task:
        backend.train_from_iterator(_texts(source, task), trainer)
    tokenizer = Tokenizer(
        (backend.to_str(pretty=True) + "\n").encode(),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "chat_template": template,
        },
    )
    tokenizer.save(ctx.out)
    notes = {}
    if tokenizer.vocab_size < config.vocab_size:
        notes["vocabulary"] = (
            f"{tokenizer.vocab_size} entries of the {config.vocab_size} asked for: the text has no more "
            f"pairs that occur {config.min_frequency} times"
        )
        ctx.progress.say(f"Vocabulary: {notes['vocabulary']}.")
    return StageResult(metrics={"vocab_size": float(tokenizer.vocab_size)}, notes=notes)


def encode_corpus(ctx: StageContext) -> StageResult:
    """Stage `tokens`: write `train.bin`, `validation.bin`, `test.bin` and `meta.json`.

    A file is a flat little-endian array of ids, uint16 up to 65,536 entries and uint32 above. Each document
    is begin-of-text, its tokens, end-of-text. Memory stays bounded by the longest document.
    """
    tokenizer = Tokenizer.from_dir(ctx.inputs["tokenizer"].path)
    if tokenizer.eos_id is None:
        raise DataError("the tokenizer has no end-of-text token", hint="Set eos_token in its config.")
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    data = ctx.inputs["data"].path
    splits = {}
    for name in SPLITS:
        source = data / f"{name}.jsonl"
        with ctx.progress.task(f"encoding {name}", total=source.stat().st_size, unit="B") as task:
            splits[name] = _encode_split(source, ctx.out / f"{name}.bin", tokenizer, dtype, task)
    meta = TokensMeta(
        dtype={2: "uint16", 4: "uint32"}[dtype.itemsize],
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        tokenizer_sha256=tokenizer.sha256,
        splits=splits,
    )
    (ctx.out / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
    train = splits["train"]
    metrics = {f"{name}_tokens": float(split.tokens) for name, split in splits.items()}
    return StageResult(metrics=metrics | {"bytes_per_token": train.bytes / train.tokens})


def _encode_split(
    source: Path, target: Path, tokenizer: Tokenizer, dtype: np.dtype[Any], task: Task
) -> SplitTokens:
    tokens = size = documents = 0
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [tokenizer.eos_id]
    with target.open("wb") as file:
        for batch in _batches(_texts(source, task)):
            encoded = tokenizer.encode_batch([piece.text for piece in batch], special=False)
            for piece, ids in zip(batch, encoded, strict=True):
                row = (start if piece.first else []) + ids + (end if piece.last else [])
                file.write(np.asarray(row, dtype=dtype).tobytes())
                tokens += len(row)
                size += len(piece.text.encode())
                documents += piece.last
    return SplitTokens(tokens=tokens, bytes=size, documents=documents)


@dataclass(frozen=True)
class _Piece:
    text: str
    first: bool
    last: bool


def _pieces(text: str) -> Iterator[_Piece]:
    """Cut a document where the tokenizer would cut anyway, about every million characters."""
    start = 0
    while True:
        cut = _SAFE_CUT.search(text, start + _PIECE_CHARACTERS)
        stop = cut.end() if cut else len(text)
        yield _Piece(text[start:stop], first=start == 0, last=cut is None)
        if cut is None:
            return
        start = stop


def _batches(texts: Iterator[str]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for text in texts:
        for piece in _pieces(text):
            batch.append(piece)
            characters += len(piece.text)
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _texts(source: Path, task: Task) -> Iterator[str]:
    """The texts of a split, one at a time, moving `task` on by the bytes read."""
    done = 0
    with source.open("rb") as lines:
        for line in lines:
            yield json.loads(line)["text"]
            done += len(line)
            task.update(done)


def _chat_template(config: TokenizerConfig, project_dir: Path) -> str:
    if config.chat_template is None:
        return PLAIN_CHAT_TEMPLATE
    if config.chat_template in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[config.chat_template]
    file = project_dir / config.chat_template
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"tokenizer.chat_template: {file} can't be read: {error}",
            hint="Give a Jinja text file, relative to the project file, or leave the key out.",
        ) from None
