"""The llamacpp engine with our products and with llama.cpp's own, in two processes that take turns.

A Llama of random weights (135 million parameters: hidden 576, 30 layers, 9/3 heads, vocabulary 49,152) as
q8_0 and bf16; tokens a second of `llama_decode` alone, without sampling or text:

  prompt  250 tokens are read at once
  one     one text writes
  eight   eight texts write, of 250 tokens and more
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _harness import Result, interleaved, options, report
from _raw import asked
from _served import FULL, SMALL, make_bundle

PROMPT = 250
Speeds = dict[str, float]


class Process:
    """A runner in a process of its own; without a compiler it has no products but llama.cpp's."""

    def __init__(self, file: Path, steps: int, *, ours: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, file, steps, ours), daemon=True)
        self._process.start()

    def measure(self) -> Speeds:
        self._pipe.send(None)
        speeds: Speeds = self._pipe.recv()
        return speeds

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, file: Path, steps: int, ours: bool) -> None:
    if not ours:
        os.environ["CXX"] = "none"
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.engines.llamacpp.runner import LlamaCppRunner

    runner = LlamaCppRunner(file, context_window=512, max_rows=8, step_tokens=512, cache_bytes=2**30)
    for _ in asked(pipe):
        pipe.send(_speeds(runner, steps))


class _Text:
    """What a runner needs of a sequence."""

    def __init__(self, seed: int) -> None:
        self.tokens = [(97 * seed + 13 * k) % 4000 + 3 for k in range(PROMPT)]


def _speeds(runner: Any, steps: int) -> Speeds:
    from platen.engines.batching.runner import Part

    def seconds(parts: list[Any]) -> float:
        began = time.perf_counter()
        runner.forward(parts)
        return time.perf_counter() - began

    def write(texts: list[_Text]) -> float:
        for text in texts:
            text.tokens.append(3)
        return seconds([Part(text, len(text.tokens) - 1, len(text.tokens), "last") for text in texts])

    runner.reset()
    texts = [_Text(seed) for seed in range(8)]
    reading = []
    for text in texts:
        runner.admit(text, reuse=False)
        reading.append(seconds([Part(text, 0, PROMPT, "last")]))
    eight = [write(texts) for _ in range(steps)]
    one = [write(texts[:1]) for _ in range(steps)]
    return {
        "prompt": PROMPT / statistics.median(reading),
        "one": 1 / statistics.median(one),
        "eight": 8 / statistics.median(eight),
    }


def main() -> None:
    args = options(__doc__ or "").parse_args()
    from platen.compress.compile import compile_bundle
    from platen.engines.llamacpp.matmul import load_matmul

    if importlib.util.find_spec("llama_cpp") is None or not load_matmul():
        print("left out: llama-cpp-python is not installed, or there are no products for this processor")
        return
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        make_bundle(bundle, SMALL if args.quick else FULL)
        for weights in ("q8_0", "bf16"):
            folder = Path(scratch) / weights
            compile_bundle(bundle, folder, "gguf", weights=weights)
            processes = {
                ours: Process(folder / "model.gguf", 16 if args.quick else 64, ours=ours)
                for ours in (True, False)
            }
            runs = {str(ours): process.measure for ours, process in processes.items()}
            seen = interleaved(runs, 3 if args.quick else 9)
            for process in processes.values():
                process.close()
            for name in ("prompt", "one", "eight"):
                ours, peer = (
                    statistics.median(speeds[name] for speeds in seen[str(which)]) for which in (True, False)
                )
                results.append(Result(f"{weights}_{name}", ours, peer, ours / peer, "tokens/s", "llama.cpp"))
    report(results, json_file=args.json, quick=args.quick)


if __name__ == "__main__":
    main()
