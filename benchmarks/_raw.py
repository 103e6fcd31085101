"""The peers of the serving benchmark, each called in this process as its own users call it."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

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


class RawLlamaCpp:
    """llama.cpp through llama-cpp-python's own class: one sequence, the main thread of a process of its own.

    Beside OpenVINO or PyTorch in one process its OpenMP finds the cores overbooked and stops to spin, and its
    matrix tiles are put away by oneDNN.
    """

    def __init__(self, file: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, str(file)), daemon=True)
        self._process.start()

    def run(self, prompt: list[int], load: Load) -> tuple[float, float]:
        """Prompt tokens a second up to the first token, then tokens a second."""
        self._pipe.send((prompt, load.new_tokens))
        speeds: tuple[float, float] = self._pipe.recv()
        return speeds


def _answer(pipe: Connection, file: str) -> None:
    import llama_cpp

    threads = os.cpu_count()
    llama = llama_cpp.Llama(file, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    while True:
        prompt, new_tokens = pipe.recv()
        llama.reset()
        began, times = time.perf_counter(), []
        for _ in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            times.append(time.perf_counter())
            if len(times) == new_tokens:
                break
        pipe.send((len(prompt) / (times[0] - began), (new_tokens - 1) / (times[-1] - times[0])))


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
