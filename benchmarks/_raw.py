"""Engines called without a server: the peers of the serving benchmark as their users call them, and ours."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _servers import PROMPT_TOKENS, Load


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


Clock = list[float]
"""When each token came."""


class Alone:
    """One stream of an engine in a process of its own.

    Beside OpenVINO or PyTorch in one process llama.cpp's OpenMP finds the cores overbooked and stops to spin,
    and its matrix tiles are put away by oneDNN.
    """

    def __init__(self, serve: Callable[[Connection, Path], None], path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, path), daemon=True)
        self._process.start()

    def run(self, prompt: list[int], load: Load) -> tuple[float, float]:
        """Prompt tokens a second up to the first token, then tokens a second."""
        self._pipe.send((prompt, load.new_tokens))
        times: Clock = self._pipe.recv()
        return len(prompt) / (times[1] - times[0]), (load.new_tokens - 1) / (times[-1] - times[1])


def raw_llama_cpp(pipe: Connection, folder: Path) -> None:
    """llama.cpp through llama-cpp-python's own class."""
    import llama_cpp

    threads = os.cpu_count()
    llama = llama_cpp.Llama(
        str(folder / "model.gguf"), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    for prompt, new_tokens in asked(pipe):
        llama.reset()
        times = [time.perf_counter()]
        for _ in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            times.append(time.perf_counter())
            if len(times) > new_tokens:
                break
        pipe.send(times)


def our_engine(pipe: Connection, folder: Path) -> None:
    """Ours, as the server opens it: one request through its protocol."""
    from platen.engines.threads import prepare_process

    prepare_process()
    asyncio.run(_our_engine(pipe, folder))


async def _our_engine(pipe: Connection, folder: Path) -> None:
    from platen.engines.local import open_model
    from platen.engines.protocol import GenerationRequest, SamplingParams

    engine = open_model(folder).engine
    for prompt, new_tokens in asked(pipe):
        params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
        times = [time.perf_counter()]
        async for _ in engine.submit(GenerationRequest("bench", prompt, params)):
            times.append(time.perf_counter())
        pipe.send(times)
    await engine.close()


def asked(pipe: Connection) -> Iterator[Any]:
    """What is asked through the pipe, until the other side is gone."""
    with contextlib.suppress(EOFError):
        while True:
            yield pipe.recv()


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
