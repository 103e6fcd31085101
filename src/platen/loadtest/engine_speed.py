"""Measures every engine that can run a bundle here: speed alone and crowded, and memory.

Each engine is opened in a process of its own, so that memory is its alone and a crash ends nothing else.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from platen.compress.config import COMPILED_WEIGHTS
from platen.core.errors import BundleError, PlatenError
from platen.core.files import replaced_folder
from platen.engines.benchmark_cache import (
    AT_ONCE,
    SpeedMeasurement,
    compiled_folder,
    read_measurements,
    write_measurements,
)
from platen.engines.choose import COMPILE_TO, ENGINES, EXTRAS, Form, form_of, installed
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams
from platen.models.compiled import read_compiled
from platen.models.folder import bundle_fingerprint, find_bundle, read_json
from platen.models.llama_config import LlamaConfig

PROMPT_TOKENS, NEW_TOKENS = 250, 32
_ROUNDS, _ROUNDS_SECONDS = 5, 20.0
"""Rounds of which the median counts; no more are begun after so many seconds."""


@dataclass(frozen=True)
class Missing:
    """An engine that can't be measured, and why."""

    engine: str
    why: str


Tell = Callable[[str], None]


def measure_engines(
    bundle: Path | str, *, again: bool = False, tell: Tell = lambda _: None
) -> list[SpeedMeasurement | Missing]:
    """Figures of each engine for a bundle, fastest first with `AT_ONCE` requests, then what is missing.

    What was measured here before is not measured again unless `again`. Forms that don't exist yet are
    compiled into the cache. Raises BundleError.
    """
    path = find_bundle(bundle)
    if read_compiled(path) is not None:
        raise BundleError(f"{path} is compiled already", hint="Give the bundle that it was compiled from.")
    config = LlamaConfig.from_hf(read_json(path / "config.json"))
    known = {} if again else {figures.engine: figures for figures in read_measurements(config)}
    rows: list[SpeedMeasurement | Missing] = []
    for engine in ENGINES:
        if not installed(engine):
            rows.append(Missing(engine, f"not installed: pip install 'platen[{EXTRAS[engine]}]'"))
            continue
        form = form_of(path if engine == "torch" else _compiled(path, engine, tell))
        if engine not in known:
            tell(f"measuring {engine}")
        rows.append(known.get(engine) or _measured(form))
    found = [row for row in rows if isinstance(row, SpeedMeasurement)]
    write_measurements(config, found)
    return [
        *sorted(found, key=lambda row: row.decode_crowded, reverse=True),
        *(row for row in rows if isinstance(row, Missing)),
    ]


def _compiled(bundle: Path, engine: str, tell: Tell) -> Path:
    """The bundle's compiled form in the cache, made when it is not there."""
    from platen.compress.compile import compile_bundle

    to = COMPILE_TO[engine]
    weights = COMPILED_WEIGHTS[to][0]
    folder = compiled_folder(bundle_fingerprint(bundle), to, weights)
    if not folder.is_dir():
        tell(f"compiling to {to}, {weights}")
        with replaced_folder(folder) as new:
            compile_bundle(bundle, new, to, weights)
    return folder


def _measured(form: Form) -> SpeedMeasurement | Missing:
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(measure, form).result()
    except BrokenProcessPool:
        return Missing(form.engine, "its process died: not enough memory?")
    except (PlatenError, RuntimeError) as error:
        return Missing(form.engine, str(error).splitlines()[0])


def measure(form: Form) -> SpeedMeasurement:
    """Open `form` in this process and time it."""
    return asyncio.run(_measure(form))


async def _measure(form: Form) -> SpeedMeasurement:
    import numpy as np
    import psutil

    from platen.engines.local import open_model

    model = open_model(form.path, max_concurrent=AT_ONCE)
    engine = model.engine
    try:
        window, vocabulary = engine.capacity().context_window, _vocabulary(form.path)
        new = min(NEW_TOKENS, window // 2)
        length = min(PROMPT_TOKENS, window - new)
        random = np.random.default_rng(0)

        async def median(count: int) -> tuple[float, float]:
            began = time.monotonic()
            speeds: list[tuple[float, float]] = []
            while len(speeds) < _ROUNDS and (not speeds or time.monotonic() - began < _ROUNDS_SECONDS):
                prompts = random.integers(0, vocabulary, (count, length)).tolist()
                speeds.append(await _speeds(engine, prompts, new))
            prefill, decode = zip(*speeds, strict=True)
            return statistics.median(prefill), statistics.median(decode)

        await _speeds(engine, random.integers(0, vocabulary, (1, length)).tolist(), new)  # to warm it up
        alone, crowded = await median(1), await median(AT_ONCE)
        memory = int(psutil.Process().memory_info().rss)
        return SpeedMeasurement(form.engine, form.weights, *alone, *crowded, memory)
    finally:
        await engine.close()


async def _speeds(engine: Engine, prompts: Sequence[Sequence[int]], new: int) -> tuple[float, float]:
    """Tokens a second of reading all the prompts, and then of writing while all of them write."""
    sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    began = time.perf_counter()

    async def one(prompt: Sequence[int]) -> list[float]:
        request = GenerationRequest(uuid.uuid4().hex, prompt, sampling)
        return [time.perf_counter() async for event in engine.submit(request) if event.token_ids]

    arrived = await asyncio.gather(*(one(prompt) for prompt in prompts))
    reading_over = max(times[0] for times in arrived)
    written = sum(at > reading_over for times in arrived for at in times)
    writing = max(times[-1] for times in arrived) - reading_over
    return sum(map(len, prompts)) / (reading_over - began), written / writing


def _vocabulary(folder: Path) -> int:
    return LlamaConfig.from_hf(read_json(folder / "config.json")).vocab_size
