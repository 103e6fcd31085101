"""A real instruct model over HTTP: each of our engines beside llama.cpp's own server and others.

Prompts of 250 random tokens, 64 new ones, temperature 0, 1 and 16 at once, in turn; medians of tokens a
second. --model is the folder of a bundle, by default `models/smollm2`. llama.cpp's server gets the same q8_0
file as our llamacpp engine. --transformers adds `transformers serve`, --vllm the command of a vLLM for CPUs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from _harness import Result, interleaved, options, report
from _servers import Load, http_throughput, other_server, platen_server
from _start import free_port
from start import ENGINES, SLOTS, Forms, llama_server_command

from platen.tokens.tokenizer import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
AT_ONCE = (1, SLOTS)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models/smollm2", metavar="FOLDER")
    parser.add_argument("--llama-server", type=Path, default=os.environ.get("LLAMA_SERVER"), metavar="PATH")
    parser.add_argument("--transformers", action="store_true", help="beside `transformers serve` too")
    parser.add_argument("--vllm", metavar="COMMAND", help="beside vLLM, started by this and `serve …`")
    args = parser.parse_args()
    if not args.model.is_dir():
        parser.error(f"there is no model in {args.model}; see --model")
    tokenizer = Tokenizer.from_dir(args.model)
    load = Load(8 if args.quick else 64, 1 if args.quick else 3, min(tokenizer.vocab_size, 40_000))
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        forms = Forms(args.model.resolve(), Path(scratch))
        servers = {engine: (stack.enter_context(platen_server(forms[engine])), "bench") for engine in ENGINES}
        commands: dict[str, tuple[tuple[list[str], int], str]] = {}
        if args.llama_server:
            file = forms["llamacpp"] / "model.gguf"
            commands["llama_cpp"] = llama_server_command(Path(args.llama_server), file), "bench"
        if args.transformers:
            port, model = free_port(), str(forms.bundle)
            command = [
                str(Path(sys.executable).with_name("transformers")),
                "serve",
                "--port",
                str(port),
                model,
            ]
            commands["transformers"] = (command, port), model
        if args.vllm:
            port, model = free_port(), str(forms.bundle)
            commands["vllm"] = ([*shlex.split(args.vllm), "serve", model, "--port", str(port)], port), model
        for name, (command_and_port, model) in commands.items():
            servers[name] = stack.enter_context(other_server(*command_and_port)), model
        results: list[Result] = []
        for count in AT_ONCE:
            results += compare(servers, count, load, tokenizer)
            print(*(f"{result.line()} so far" for result in results), sep="\n", flush=True)
    report(results, json_file=args.json, quick=args.quick)


def compare(
    servers: dict[str, tuple[str, str]], count: int, load: Load, tokenizer: Tokenizer
) -> list[Result]:
    """Each engine, and the fastest of them, beside each other server with so many requests at once."""
    seed = iter(range(1_000_000))

    def speed(name: str, url: str, model: str) -> float:
        prompts = load.prompts(count, 1000 * count + next(seed))
        if name == "transformers":  # it takes text only, and knows no ignore_eos
            texts = [tokenizer.decode(prompt) for prompt in prompts]
            return http_throughput(url, model, texts, load, beyond=False)
        return http_throughput(url, model, prompts, load)

    seen = interleaved(
        {name: partial(speed, name, *server) for name, server in servers.items()}, load.rounds + 1
    )
    medians = {name: statistics.median(speeds[1:]) for name, speeds in seen.items()}
    best = max(ENGINES, key=medians.__getitem__)
    peers = [name for name in servers if name not in ENGINES]
    lines = [(engine, engine, peer) for engine in ENGINES for peer in peers]
    lines += [("best", best, peer) for peer in peers or [best]]
    return [
        Result(
            f"{name}_at_{count}_vs_{peer}",
            medians[ours],
            medians[peer],
            medians[ours] / medians[peer],
            "tokens/s",
            peer,
            {"engine": ours, "runs": seen},
        )
        for name, ours, peer in lines
    ]


if __name__ == "__main__":
    main()
