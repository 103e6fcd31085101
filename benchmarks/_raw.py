"""The peers of the serving benchmark, each called in this process as its own users call it."""

from __future__ import annotations

import os
import time
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
