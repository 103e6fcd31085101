"""Tokenizers: training beside the library alone, and `platen tokens encode` beside tiktoken.

The text is real: documentation, Python's library and packages of this machine, 100 MB of it as JSON lines.

  train   our stage from the file, against tokenizers' trainer fed from memory (byte-level BPE, 32,000)
  encode  the command `platen tokens encode`, from its start to the finished file, against tiktoken encoding
          the same texts from memory on one thread (`encode_ordinary`); both have the same vocabulary of
          ours, and the ids are compared
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
from _harness import Result, interleaved, options, report
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from platen.core.progress import SilentProgress
from platen.tokens.config import TokenizerConfig
from platen.tokens.learn import learn_tokenizer
from platen.tokens.ranks import LLAMA3_PATTERN, ranks_of
from platen.tokens.specials import BOS, EOS, PAD
from platen.tokens.texts import read_texts
from platen.tokens.tokenizer import Tokenizer

VOCABULARY = 32_000
SUFFIXES = {".txt", ".md", ".rst", ".html", ".py", ".pyi", ".tex", ".xml", ""}


def places() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path("/usr/share/doc"), Path(paths["stdlib"]), Path("/usr/lib/python3"), Path(paths["purelib"])]


def gather(file: Path, size: int) -> list[str]:
    """Write `size` bytes of this machine's text as JSON lines, a share of each place in turn."""
    texts: list[str] = []
    had = 0
    waiting = [
        iter(sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)) for place in places()
    ]
    with file.open("w", encoding="utf-8") as out:
        while waiting and had < size:
            for paths in list(waiting):
                path = next(paths, None)
                if path is None:
                    waiting.remove(paths)
                    continue
                try:
                    text = path.read_bytes().decode("utf-8") if path.is_file() else ""
                except (OSError, UnicodeDecodeError):
                    continue
                if text and "\0" not in text:
                    texts.append(text)
                    had += len(text.encode())
                    out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return texts


def train_ours(file: Path) -> tuple[float, Tokenizer]:
    began = time.perf_counter()
    texts = read_texts([file], "reading", SilentProgress())
    tokenizer = learn_tokenizer(texts, TokenizerConfig(vocab_size=VOCABULARY), file.parent)
    return time.perf_counter() - began, tokenizer


def train_library(texts: list[str]) -> tuple[float, Backend]:
    began = time.perf_counter()
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return time.perf_counter() - began, backend


def compare_training(file: Path, texts: list[str], rounds: int) -> tuple[Result, Tokenizer]:
    seen = interleaved({"ours": lambda: train_ours(file), "library": lambda: train_library(texts)}, rounds)
    ours, library = (min(seconds for seconds, _ in seen[name]) for name in ("ours", "library"))
    tokenizer, peer = seen["ours"][0][1], seen["library"][0][1]
    if json.loads(tokenizer.raw) != json.loads(peer.to_str()):
        raise SystemExit("the two tokenizers differ")
    details = {name: [seconds for seconds, _ in runs] for name, runs in seen.items()}
    result = Result("train", ours, library, library / ours, "s", "tokenizers", details)
    return result, tokenizer


def compare_encoding(file: Path, texts: list[str], tokenizer: Tokenizer, rounds: int) -> Result:
    folder = file.parent / "tokenizer"
    tokenizer.save(folder)
    encoding = ranks_of(tokenizer).encoding()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    number = iter(range(1_000))

    def ours() -> float:
        out = file.parent / f"tokens{next(number)}"
        command = [sys.executable, "-m", "platen", "tokens", "encode", file, "-t", folder, "--out", out]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return megabytes / (time.perf_counter() - began)

    def tiktoken() -> float:
        began = time.perf_counter()
        for text in texts:
            encoding.encode_ordinary(text)
        return megabytes / (time.perf_counter() - began)

    seen = interleaved({"ours": ours, "tiktoken": tiktoken}, rounds)
    written = np.memmap(file.parent / "tokens0" / "train.bin", dtype="<u2", mode="r")
    at = 0
    for text in texts:
        ids = [tokenizer.bos_id, *encoding.encode_ordinary(text), tokenizer.eos_id]
        if not np.array_equal(written[at : at + len(ids)], ids):
            raise SystemExit(f"the ids differ in the document at token {at}")
        at += len(ids)
    best = {name: max(rates) for name, rates in seen.items()}
    return Result(
        "encode",
        best["ours"],
        best["tiktoken"],
        best["ours"] / best["tiktoken"],
        "MB/s",
        "tiktoken",
        dict(seen),
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--part", choices=("all", "train", "encode"), default="all")
    parser.add_argument("--megabytes", type=float, help="default: 100, with --quick 10")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size = int(1e6 * (arguments.megabytes or (10 if arguments.quick else 100)))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "text.jsonl"
        texts = gather(file, size)
        print(f"text: {sum(map(len, texts)) / 1e6:.1f} million characters, {len(texts):,} documents")
        results = []
        if arguments.part != "encode":
            result, tokenizer = compare_training(file, texts, arguments.rounds)
            results.append(result)
        else:
            tokenizer = train_ours(file)[1]
        if arguments.part != "train":
            results.append(compare_encoding(file, texts, tokenizer, arguments.rounds))
    report(results, json_file=arguments.json, quick=arguments.quick)


if __name__ == "__main__":
    main()
