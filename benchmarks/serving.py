"""Serving: our engines behind HTTP against the engines called raw and against transformers.

A Llama of random weights (135 million parameters by default: hidden 576, 30 layers, 9/3 heads, vocabulary
49,152); prompts of 250 random tokens, 64 new ones, temperature 0, no end of text. Compared are:

  throughput   16 requests at once over HTTP (OpenVINO, int8) with OpenVINO GenAI's continuous batching called
               in process, and with transformers' generate in batches of 8
  torch        8 requests at once, our PyTorch engine with generate in one batch of 8, both float32
  llamacpp     8 requests at once over HTTP (GGUF, q8_0) with llama_cpp.server
  decode       one stream over HTTP with the fastest of llama.cpp and OpenVINO GenAI called raw
  prefill      one prompt over HTTP, likewise
  prefix       time to the first token of a prompt seen before and of a new one, per engine

What is not installed (openvino-genai, llama-cpp-python with its [server]) is left out and named.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from _harness import Result, interleaved, options, report
from _served import FULL, SMALL, make_bundle

from platen.compress.compile import compile_bundle
from platen.tokens.tokenizer import Tokenizer

PROMPT_TOKENS = 250
CLIENT = httpx.Client(verify=False, timeout=600)  # loading certificates takes longer than a first token


@dataclass(frozen=True)
class Load:
    """How much is asked of each contestant."""

    new_tokens: int
    rounds: int
    vocab_size: int

    def prompts(self, count: int, seed: int) -> list[list[int]]:
        """Prompts that share nothing with any other seed's."""
        generator = np.random.default_rng(seed)
        return generator.integers(3, self.vocab_size, (count, PROMPT_TOKENS)).tolist()


# -- ours ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def platen_server(folder: Path) -> Iterator[str]:
    """`platen serve` of a folder; its address."""
    command = [sys.executable, "-m", "platen", "serve", str(folder), "--port", "0", "--name", "bench"]
    with _process(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"answers at .*?(http://[\d.:]+)", line):
                break
        else:
            raise RuntimeError("platen serve ended early")
        _wait_for(f"{found[1]}/health")
        yield found[1]


@contextlib.contextmanager
def llama_cpp_server(file: Path, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(file), "--port", str(port)]
    command += ["--n_ctx", "1024", "--n_threads", str(os.cpu_count()), "--verbose", "false"]
    command += ["--interrupt_requests", "false"]  # or a second request ends the first
    with _process(command):
        _wait_for(f"http://127.0.0.1:{port}/v1/models")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def http_throughput(url: str, model: str, prompts: Sequence[str | list[int]], load: Load) -> float:
    """Tokens a second over all requests, sent at once."""

    async def one(client: httpx.AsyncClient, prompt: str | list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": load.new_tokens, "temperature": 0}
        if model == "bench":
            body["ignore_eos"] = True
        answer = await client.post(f"{url}/v1/completions", json=body, timeout=600)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    async def everyone() -> float:
        async with httpx.AsyncClient(verify=False) as client:
            began = time.perf_counter()
            tokens = sum(await asyncio.gather(*(one(client, prompt) for prompt in prompts)))
            return tokens / (time.perf_counter() - began)

    return asyncio.run(everyone())


def http_stream(url: str, prompt: list[int], load: Load) -> tuple[float, float]:
    """Of one streamed request: prompt tokens a second up to the first token, then tokens a second."""
    body = {"model": "bench", "prompt": prompt, "max_tokens": load.new_tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True}
    times = []
    began = time.perf_counter()
    with CLIENT.stream("POST", f"{url}/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                times.append(time.perf_counter())
    return len(prompt) / (times[0] - began), (load.new_tokens - 1) / (times[-1] - times[0])


# -- the peers -----------------------------------------------------------------------------------------


class GenAi:
    """OpenVINO GenAI's continuous batching, called in process; `first` is the time to the first token."""

    def __init__(self, folder: Path) -> None:
        import openvino_genai

        self._genai = openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_seqs, scheduler.max_num_batched_tokens = 1, 16, 512
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"PERFORMANCE_HINT": "LATENCY"}
        )

    def run(self, prompts: list[list[int]], load: Load) -> tuple[float, float]:
        """Seconds to the first token, and in all."""
        import openvino

        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = load.new_tokens, True, False
        began, first = time.perf_counter(), 0.0
        handles = [
            self._pipeline.add_request(number, openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
            for number, prompt in enumerate(prompts)
        ]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for handle in handles:
                while handle.can_read():
                    handle.read()
                    first = first or time.perf_counter() - began
        return first, time.perf_counter() - began


class RawLlamaCpp:
    """llama.cpp through llama-cpp-python's own class, one sequence."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(file), n_ctx=1024, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(), verbose=False
        )

    def run(self, prompt: list[int], load: Load) -> tuple[float, float]:
        self._llama.reset()
        began, times = time.perf_counter(), []
        for _ in self._llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            times.append(time.perf_counter())
            if len(times) == load.new_tokens:
                break
        return len(prompt) / (times[0] - began), (load.new_tokens - 1) / (times[-1] - times[0])


class Transformers:
    """`generate` of a batch, float32 or bfloat16."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import LlamaForCausalLM

        self._model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def generate(self, prompts: list[list[int]], load: Load) -> list[list[int]]:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=load.new_tokens,
                min_new_tokens=load.new_tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return [row.tolist() for row in out[:, PROMPT_TOKENS:]]


# -- the comparisons -----------------------------------------------------------------------------------


class Seeds:
    """A fresh number each time, so that no prompt comes twice."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        self._last += 1
        return self._last


def throughput(url: str, folders: dict[str, Path], load: Load, seeds: Seeds) -> list[Result]:
    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: http_throughput(url, "bench", load.prompts(16, seeds()), load)
    }
    if importlib.util.find_spec("openvino_genai"):
        genai = GenAi(folders["openvino"])
        contestants["genai"] = lambda: 16 * load.new_tokens / genai.run(load.prompts(16, seeds()), load)[1]
    transformers = Transformers(folders["bundle"], torch.bfloat16)

    def generate() -> float:
        began = time.perf_counter()
        for _ in range(2):
            transformers.generate(load.prompts(8, seeds()), load)
        return 16 * load.new_tokens / (time.perf_counter() - began)

    contestants["transformers"] = generate
    seen = interleaved(contestants, load.rounds)
    return [_ratio(f"throughput_vs_{peer}", seen, peer, "tokens/s") for peer in seen if peer != "ours"]


def torch_engine(url: str, folders: dict[str, Path], load: Load, seeds: Seeds) -> list[Result]:
    transformers = Transformers(folders["bundle"], torch.float32)

    def generate() -> float:
        began = time.perf_counter()
        transformers.generate(load.prompts(8, seeds()), load)
        return 8 * load.new_tokens / (time.perf_counter() - began)

    seen = interleaved(
        {
            "ours": lambda: http_throughput(url, "bench", load.prompts(8, seeds()), load),
            "transformers": generate,
        },
        load.rounds,
    )
    return [_ratio("torch_vs_transformers", seen, "transformers", "tokens/s")]


def llama_cpp_engine(url: str, folders: dict[str, Path], load: Load, seeds: Seeds) -> list[Result]:
    file = folders["llamacpp"] / "model.gguf"
    tokenizer = Tokenizer.from_dir(folders["llamacpp"])

    def texts() -> list[str]:  # its server takes no token ids
        return [tokenizer.decode(prompt) for prompt in load.prompts(8, seeds())]

    with llama_cpp_server(file, 8977) as theirs:
        seen = interleaved(
            {
                "ours": lambda: http_throughput(url, "bench", texts(), load),
                "server": lambda: http_throughput(theirs, str(file), texts(), load),
            },
            load.rounds,
        )
    return [_ratio("llamacpp_vs_llama_cpp_server", seen, "server", "tokens/s")]


def one_stream(urls: dict[str, str], folders: dict[str, Path], load: Load, seeds: Seeds) -> list[Result]:
    runs: dict[str, Callable[[], tuple[float, float]]] = {}
    for name, url in urls.items():
        runs[f"ours {name}"] = lambda url=url: http_stream(url, load.prompts(1, seeds())[0], load)  # type: ignore[misc]
    if importlib.util.find_spec("openvino_genai"):
        genai = GenAi(folders["openvino"])

        def run_genai() -> tuple[float, float]:
            first, whole = genai.run(load.prompts(1, seeds()), load)
            return PROMPT_TOKENS / first, (load.new_tokens - 1) / (whole - first)

        runs["raw openvino"] = run_genai
    if "llamacpp" in folders:
        llama = RawLlamaCpp(folders["llamacpp"] / "model.gguf")
        runs["raw llamacpp"] = lambda: llama.run(load.prompts(1, seeds())[0], load)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(2 * load.rounds + 1):
        for name, run in runs.items():
            seen[name].append(run())
    results = []
    for number, what in enumerate(("prefill", "decode")):
        speeds = {name: statistics.median(pair[number] for pair in pairs) for name, pairs in seen.items()}
        ours = max((name for name in speeds if name.startswith("ours")), key=speeds.__getitem__)
        raw = [name for name in speeds if name.startswith("raw")]
        if raw:
            peer = max(raw, key=speeds.__getitem__)
            results.append(
                Result(
                    what,
                    speeds[ours],
                    speeds[peer],
                    speeds[ours] / speeds[peer],
                    "tokens/s",
                    peer,
                    {**speeds},
                )
            )
    return results


def prefix(urls: dict[str, str], load: Load, seeds: Seeds) -> list[Result]:
    results = []
    for name, url in urls.items():
        cold, warm = [], []
        for _ in range(2 * load.rounds + 1):
            prompt = load.prompts(1, seeds())[0]
            cold.append(PROMPT_TOKENS / http_stream(url, prompt, load)[0])
            warm.append(PROMPT_TOKENS / http_stream(url, prompt, load)[0])
        ours, peer = statistics.median(warm), statistics.median(cold)
        results.append(Result(f"prefix_{name}", ours, peer, peer / ours, "s to the first token", "cold"))
    return results


def _ratio(name: str, seen: dict[str, list[float]], peer: str, unit: str) -> Result:
    ours, theirs = statistics.median(seen["ours"]), statistics.median(seen[peer])
    ratio = statistics.median(a / b for a, b in zip(seen["ours"], seen[peer], strict=True))
    return Result(name, ours, theirs, ratio, unit, peer, {"runs": seen})


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--only", nargs="*", help="throughput, torch, llamacpp, stream, prefix")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = set(args.only or ("throughput", "torch", "llamacpp", "stream", "prefix"))
    missing = [
        name
        for name in ("openvino_genai", "llama_cpp", "sse_starlette")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        print("not installed, left out:", ", ".join(missing))
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folders = {"bundle": Path(scratch) / "bundle"}
        config = SMALL if args.quick else FULL
        make_bundle(folders["bundle"], config)
        load = Load(16 if args.quick else 64, 1 if args.quick else 3, config.vocab_size)
        for name, to in (("openvino", "openvino"), ("llamacpp", "gguf")):
            if name == "openvino" or "llama_cpp" not in missing:
                folders[name] = Path(scratch) / name
                compile_bundle(folders["bundle"], folders[name], to)
        seeds, results = Seeds(), []
        urls: dict[str, str] = {}
        for name, folder in folders.items():
            urls["torch" if name == "bundle" else name] = stack.enter_context(platen_server(folder))
        for url in urls.values():
            http_throughput(url, "bench", load.prompts(4, seeds()), load)  # warm
        if "throughput" in wanted:
            results += throughput(urls["openvino"], folders, load, seeds)
        if "torch" in wanted:
            results += torch_engine(urls["torch"], folders, load, seeds)
        if "llamacpp" in wanted and not {"llama_cpp", "sse_starlette"} & set(missing):
            results += llama_cpp_engine(urls["llamacpp"], folders, load, seeds)
        if "stream" in wanted:
            results += one_stream(urls, folders, load, seeds)
        if "prefix" in wanted:
            results += prefix(urls, load, seeds)
        report(results, json_file=args.json, quick=args.quick)


if __name__ == "__main__":
    main()
