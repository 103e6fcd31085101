"""Start-up: from starting the process to the first token over HTTP, and resident memory after it.

Each engine serves its form of a model (PyTorch the bundle, OpenVINO int8, llama.cpp q8_0) as `platen serve`
does by itself, with 16 slots; beside it llama.cpp's own server with the same q8_0 file and as many slots. The
prompt has 250 tokens, 8 are written. Then a model with a window of 131,072, eight key/value heads of 128 and
random weights is served by each engine with at most 4 GB for keys and values, and given one long prompt.

--model is a folder whose bundle is measured, such as SmolLM2's, by default one of random weights in its shape
with a window of 8,192; --llama-server is the path of llama.cpp's server (or $LLAMA_SERVER). Caches are warm:
the first of the rounds does not count.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from _harness import Result, interleaved, options, report
from _served import FULL, SMALL, make_bundle
from _start import Start, free_port, measure_start, platen_command

from platen.compress.compile import compile_bundle
from platen.core.cpu import features
from platen.models.arch.config import DecoderConfig

SLOTS = 16
ENGINES = ("torch", "openvino", "llamacpp")
LONG = DecoderConfig(
    family="qwen3",
    vocab_size=49_152,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=12,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131_072,
    qk_norm="head",
    rope_theta=1e6,
    tie_word_embeddings=True,
    eos_token_id=0,
)
"""A small Qwen3, whose cache is as large a token and layer as that of the released ones."""


@dataclass
class Forms:
    """A model's folder for each engine, made when it is first wanted."""

    bundle: Path
    scratch: Path

    def __getitem__(self, engine: str) -> Path:
        if engine == "torch":
            return self.bundle
        folder = self.scratch / f"{self.bundle.name}-{engine}"
        if not folder.exists():
            to = "gguf" if engine == "llamacpp" else engine
            compile_bundle(self.bundle, folder, to, weights=None)
        return folder


def starts(forms: Forms, server: Path | None, rounds: int, prompt: list[int]) -> list[Result]:
    """Each of our engines beside llama.cpp's server, started in turn."""
    contestants: dict[str, Callable[[], Start]] = {}
    for engine in ENGINES:
        folder = forms[engine]
        contestants[engine] = lambda folder=folder: measure_start(  # type: ignore[misc]
            *platen_command(folder), prompt
        )
    if server is not None:
        file = forms["llamacpp"] / "model.gguf"
        contestants["server"] = lambda: measure_start(*llama_server_command(server, file), prompt)
    seen = {name: runs[1:] for name, runs in interleaved(contestants, rounds + 1).items()}
    results = []
    for engine in ENGINES:
        peer = seen.get("server", seen[engine])
        for what in ("seconds", "memory", "cpu_seconds"):
            ours, theirs = (_median(runs, what) for runs in (seen[engine], peer))
            unit = "bytes" if what == "memory" else "s"
            results.append(
                Result(f"start_{engine}_{what}", ours, theirs, theirs / ours, unit, "llama.cpp's server")
            )
    return results


def _median(runs: list[Start], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)


def llama_server_command(server: Path, file: Path) -> tuple[list[str], int]:
    """llama.cpp's server with room for as many requests, and its port."""
    port = free_port()
    command = [str(server), "-m", str(file), "--port", str(port), "--host", "127.0.0.1"]
    command += ["-np", str(SLOTS), "-t", str(os.cpu_count()), "--no-webui"]
    if "amx_tile" in features():
        command.append("--no-repack")  # built with GCC 12, its repacked weights end the process with AMX
    return command, port


def long_windows(forms: Forms, tokens: int) -> list[Result]:
    """A prompt of so many tokens: memory at most beyond the weights' files, of the 4 GB it may be."""
    results = []
    for engine in ENGINES:
        folder = forms[engine]
        command = platen_command(folder, "--kv-memory", "3.5GB")
        short = measure_start(*command, [(7 * i) % 40_000 + 5 for i in range(16)])
        command = platen_command(folder, "--kv-memory", "3.5GB")
        run = measure_start(*command, [(7919 * i) % 40_000 + 5 for i in range(tokens)])
        weights = sum(
            file.stat().st_size
            for file in folder.iterdir()
            if re.search(r"\.(safetensors|bin|gguf)$", file.name)
        )
        beyond = run.peak - weights
        details: dict[str, object] = {"seconds": run.seconds, "peak": run.peak, "short_peak": short.peak}
        results.append(Result(f"long_{engine}_memory", beyond, 4e9, 4e9 / beyond, "bytes", "4 GB", details))
    return results


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__ or "")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a bundle; default: random weights")
    parser.add_argument("--llama-server", type=Path, default=os.environ.get("LLAMA_SERVER"), metavar="PATH")
    parser.add_argument("--long-prompt", type=int, metavar="TOKENS", help="0: not measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = args.model
        if bundle is None:
            bundle = folder / "model"
            make_bundle(bundle, SMALL if args.quick else replace(FULL, max_position_embeddings=8192))
        server = None if args.llama_server is None else Path(args.llama_server)
        prompt = [(7919 * i) % 4000 + 5 for i in range(250)]
        results = starts(Forms(bundle, folder), server, 1 if args.quick else 5, prompt)
        print(*(f"{result.line()} so far" for result in results), sep="\n", flush=True)
        tokens = (512 if args.quick else 20_000) if args.long_prompt is None else args.long_prompt
        if tokens:
            long = folder / "long"
            make_bundle(long, replace(LONG, num_hidden_layers=2) if args.quick else LONG)
            results += long_windows(Forms(long, folder), tokens)
    report(results, json_file=args.json, quick=args.quick)


if __name__ == "__main__":
    main()
