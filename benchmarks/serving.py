"""Serving: our engines behind HTTP against the engines called raw and against transformers.

A Llama of random weights in bfloat16 (135 million parameters by default: hidden 576, 30 layers, 9/3 heads,
vocabulary 49,152); prompts of 250 random tokens, 64 new ones, temperature 0, no end of text. Compared are:

  throughput   16 requests at once over HTTP (OpenVINO, int8) with OpenVINO GenAI's continuous batching called
               in process, and with transformers' generate in batches of 8, float32 and bfloat16
  torch        8 requests at once, our PyTorch engine with generate in one batch of 8, both float32
  llamacpp     8 requests at once over HTTP (GGUF, q8_0 and bf16) with llama_cpp.server
  decode       one stream through our engine with the fastest of llama.cpp and OpenVINO GenAI called raw
  prefill      one prompt, likewise
  decode_http, prefill_http  the same of ours over HTTP
  prefix       time to the first token after a beginning of 250 tokens seen before and after a new one, per
               engine: _same is the very same prompt again, the other has 8 new tokens after the beginning

Speeds of one stream are set beside what the machine's memory and arithmetic would allow. What is not
installed (openvino-genai, llama-cpp-python with its [server]) is left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from _harness import Result, interleaved, options, report
from _limits import Limits, measure_limits
from _raw import Alone, GenAi, Transformers, our_engine, raw_llama_cpp
from _served import FULL, SMALL, make_bundle
from _servers import (
    PROMPT_TOKENS,
    Load,
    http_stream,
    http_texts,
    http_throughput,
    llama_cpp_server,
    platen_server,
)

from platen.compress.compile import compile_bundle
from platen.models.arch.config import DecoderConfig
from platen.tokens.tokenizer import Tokenizer

BARS = {
    "throughput_vs_genai": 0.95,
    "throughput_vs_transformers": 3.0,
    "decode": 0.97,
    "prefill": 0.97,
    "llamacpp_vs_llama_cpp_server": 3.0,
    "llamacpp_bf16_vs_llama_cpp_server": 3.0,
    "torch_vs_transformers": 2.0,
    "torch_equal_tokens": 1.0,
    "prefix_torch": 5.0,
    "prefix_openvino": 5.0,
}
"""How many times better than the peer we mean to be."""


@dataclass
class Bench:
    """The model in its forms, the servers that run so far, and fresh prompts."""

    folder: Path
    config: DecoderConfig
    load: Load
    stack: contextlib.ExitStack
    limits: Limits
    _urls: dict[Path, str] = field(default_factory=dict)
    _seed: int = 0

    def form(self, engine: str, weights: str | None = None) -> Path:
        """The folder that an engine opens, made when it is first wanted, with its usual weights or these."""
        folder = self.folder / f"{engine}-{weights}"
        if not folder.exists():
            if engine == "torch":
                make_bundle(folder, self.config)
            else:
                to = "gguf" if engine == "llamacpp" else engine
                compile_bundle(self.form("torch"), folder, to, weights=weights)
        return folder

    def url(self, engine: str, weights: str | None = None) -> str:
        """Our server with an engine, started and warmed when it is first wanted."""
        folder = self.form(engine, weights)
        if folder not in self._urls:
            self._urls[folder] = self.stack.enter_context(platen_server(folder))
            http_throughput(self._urls[folder], "bench", self.prompts(4), self.load)
        return self._urls[folder]

    def prompts(self, count: int) -> list[list[int]]:
        """Prompts that share nothing with any other."""
        self._seed += 1
        return self.load.prompts(count, self._seed)

    def tokens_a_second(self, engine: str, count: int) -> float:
        return http_throughput(self.url(engine), "bench", self.prompts(count), self.load)

    def of_limits(self, tokens: float, engine: str, *, reading: bool) -> dict[str, float]:
        """How near a speed of one text (tokens a second) comes to what the machine could do."""
        if reading:
            arithmetic = self.limits.float32 if engine == "torch" else self.limits.bfloat16
            most = self.limits.reading(self.config, PROMPT_TOKENS, arithmetic)
        else:
            most = self.limits.writing(self.config.num_parameters() * (4 if engine == "torch" else 1))
        return {"limit": most, "share_of_limit": tokens / most}


def throughput(bench: Bench) -> list[Result]:
    load = bench.load
    contestants: dict[str, Callable[[], float]] = {"ours": lambda: bench.tokens_a_second("openvino", 16)}
    bench.url("openvino")
    if importlib.util.find_spec("openvino_genai"):
        genai = GenAi(bench.form("openvino"))
        contestants["genai"] = lambda: 16 * load.new_tokens / genai.run(bench.prompts(16), load)[1]
    for peer, dtype in (("transformers", torch.float32), ("transformers_bfloat16", torch.bfloat16)):
        contestants[peer] = partial(_generate, Transformers(bench.form("torch"), dtype), bench, batches=2)
    seen = interleaved(contestants, load.rounds)
    return [_ratio(f"throughput_vs_{peer}", seen, peer, "tokens/s") for peer in seen if peer != "ours"]


def _generate(transformers: Transformers, bench: Bench, *, batches: int) -> float:
    """Tokens a second of `generate` in batches of 8."""
    began = time.perf_counter()
    for _ in range(batches):
        transformers.generate(bench.prompts(8), bench.load)
    return batches * 8 * bench.load.new_tokens / (time.perf_counter() - began)


def torch_engine(bench: Bench) -> list[Result]:
    load, transformers = bench.load, Transformers(bench.form("torch"), torch.float32)
    bench.url("torch")
    generate = partial(_generate, transformers, bench, batches=1)
    seen = interleaved(
        {"ours": lambda: bench.tokens_a_second("torch", 8), "transformers": generate}, load.rounds
    )
    return [
        _ratio("torch_vs_transformers", seen, "transformers", "tokens/s"),
        _equal_tokens(bench, transformers),
    ]


def _equal_tokens(bench: Bench, transformers: Transformers) -> Result:
    """The share of eight texts that are the same, token by token, from a batch and from `generate`."""
    tokenizer, prompts = Tokenizer.from_dir(bench.form("torch")), bench.prompts(8)
    theirs = [tokenizer.decode(ids) for ids in transformers.generate(prompts, bench.load)]
    ours = http_texts(bench.url("torch"), prompts, bench.load)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return Result("torch_equal_tokens", same, len(theirs), same / len(theirs), "texts", "transformers")


def llama_cpp_engine(bench: Bench) -> list[Result]:
    """With q8_0's weights, the usual ones, and with bfloat16's."""
    results = []
    for weights, name in ((None, "llamacpp"), ("bf16", "llamacpp_bf16")):
        folder = bench.form("llamacpp", weights)
        file, tokenizer = folder / "model.gguf", Tokenizer.from_dir(folder)
        url = bench.url("llamacpp", weights)
        with llama_cpp_server(file) as theirs:

            def speed(url: str, model: str, tokenizer: Tokenizer = tokenizer) -> float:
                texts = [_text_of(prompt, tokenizer) for prompt in bench.prompts(8)]
                return http_throughput(url, model, texts, bench.load)

            contestants = {
                "ours": partial(speed, url, "bench"),
                "server": partial(speed, theirs, str(file)),
            }
            seen = interleaved(contestants, bench.load.rounds)
        results.append(_ratio(f"{name}_vs_llama_cpp_server", seen, "server", "tokens/s"))
    return results


def _text_of(prompt: list[int], tokenizer: Tokenizer) -> str:
    """A text of about as many tokens, for a server that takes no ids.

    Random tokens make a text that is split otherwise, into more.
    """
    return tokenizer.decode(tokenizer.encode(tokenizer.decode(prompt))[: len(prompt)])


def one_stream(bench: Bench) -> list[Result]:
    """Reading and writing one text: each of our engines called in process and over HTTP, and the raw ones."""
    runs: dict[str, Callable[[], tuple[float, float]]] = {}
    for engine in ("openvino", "llamacpp", "torch"):
        if engine != "llamacpp" or importlib.util.find_spec("llama_cpp"):
            bench.url(engine)
            runs[f"ours {engine}"] = partial(_alone, bench, Alone(our_engine, bench.form(engine)))
            runs[f"http {engine}"] = partial(_streamed, bench, engine)
    if importlib.util.find_spec("openvino_genai"):
        genai = GenAi(bench.form("openvino"))

        def run_genai() -> tuple[float, float]:
            first, whole = genai.run(bench.prompts(1), bench.load)
            return PROMPT_TOKENS / first, (bench.load.new_tokens - 1) / (whole - first)

        runs["raw openvino"] = run_genai
    if "ours llamacpp" in runs:
        runs["raw llamacpp"] = partial(_alone, bench, Alone(raw_llama_cpp, bench.form("llamacpp")))
    seen = interleaved(runs, 2 * bench.load.rounds + 1)
    return [
        _fastest(bench, what, who, number, seen)
        for number, what in enumerate(("prefill", "decode"))
        for who in ("ours", "http")
    ]


def _alone(bench: Bench, engine: Alone) -> tuple[float, float]:
    return engine.run(bench.prompts(1)[0], bench.load)


def _streamed(bench: Bench, engine: str) -> tuple[float, float]:
    return http_stream(bench.url(engine), bench.prompts(1)[0], bench.load)


def _fastest(
    bench: Bench, what: str, who: str, number: int, seen: dict[str, list[tuple[float, float]]]
) -> Result:
    """Our fastest engine beside the fastest raw one, and how near each of ours is to the machine's limits."""
    speeds = {name: statistics.median(pair[number] for pair in pairs) for name, pairs in seen.items()}
    ours = max((name for name in speeds if name.startswith(who)), key=speeds.__getitem__)
    peer = max((name for name in speeds if name.startswith("raw")), key=speeds.__getitem__, default=ours)
    ratio = statistics.median(a[number] / b[number] for a, b in zip(seen[ours], seen[peer], strict=True))
    near = {
        name: bench.of_limits(speed, name.split()[1], reading=what == "prefill")
        for name, speed in speeds.items()
        if who == "ours"
    }
    details: dict[str, object] = {"speeds": speeds, "limits": near}
    name = what if who == "ours" else f"{what}_{who}"
    return Result(name, speeds[ours], speeds[peer], ratio, "tokens/s", f"{peer}, ours: {ours}", details)


def prefix(bench: Bench) -> list[Result]:
    results = []
    for engine in ("torch", "openvino", "llamacpp"):
        if engine == "llamacpp" and not importlib.util.find_spec("llama_cpp"):
            continue
        url, seen = bench.url(engine), {"cold": [], "same": [], "prefix": []}
        for _ in range(2 * bench.load.rounds + 1):
            beginning, (end, other) = bench.prompts(1)[0], (prompt[:8] for prompt in bench.prompts(2))
            asked = {"cold": beginning + end, "same": beginning + end, "prefix": beginning + other}
            for kind, prompt in asked.items():
                seen[kind].append(len(prompt) / http_stream(url, prompt, bench.load)[0])
        cold = statistics.median(seen["cold"])
        for name, kind in ((f"prefix_{engine}", "prefix"), (f"prefix_{engine}_same", "same")):
            ours = statistics.median(seen[kind])
            results.append(Result(name, ours, cold, cold / ours, "s to the first token", "cold"))
    return results


def _ratio(name: str, seen: dict[str, list[float]], peer: str, unit: str) -> Result:
    ours, theirs = statistics.median(seen["ours"]), statistics.median(seen[peer])
    ratio = statistics.median(a / b for a, b in zip(seen["ours"], seen[peer], strict=True))
    return Result(name, ours, theirs, ratio, unit, peer, {"runs": seen})


PARTS: dict[str, tuple[Callable[[Bench], list[Result]], tuple[str, ...]]] = {
    "throughput": (throughput, ()),
    "torch": (torch_engine, ()),
    "llamacpp": (llama_cpp_engine, ("llama_cpp", "sse_starlette", "starlette_context", "pydantic_settings")),
    "stream": (one_stream, ()),
    "prefix": (prefix, ()),
}
"""Each comparison, and what it can't do without."""


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these comparisons alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = SMALL if args.quick else FULL
    # Of a small model fewer tokens would all come at once, and a stream would have no speed.
    load = Load(96 if args.quick else 64, 1 if args.quick else 3, config.vocab_size)
    limits = measure_limits(config.num_parameters())
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only or PARTS:
            run, needed = PARTS[name]
            missing = [module for module in needed if not importlib.util.find_spec(module)]
            if missing:
                print(f"{name} left out: {', '.join(missing)} not installed")
                continue
            with contextlib.ExitStack() as stack:  # servers of one part do not weigh on the next
                seen = run(Bench(Path(scratch), config, load, stack, limits))
            print(*(f"{result.line()} so far" for result in seen), sep="\n", flush=True)
            results += seen
    report(results, json_file=args.json, quick=args.quick)
    print(limits.line())
    for result in results:
        bar = BARS.get(result.name)
        if bar is not None:
            print(
                f"{result.name}: {result.ratio:.3f} of {bar:g}: {'held' if result.ratio >= bar else 'MISSED'}"
            )
        for engine, near in dict(result.details.get("limits", {})).items():  # type: ignore[call-overload]
            print(f"  {result.name} {engine}: {near['share_of_limit']:.0%} of {near['limit']:.0f} tokens/s")


if __name__ == "__main__":
    main()
