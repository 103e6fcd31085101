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
from platen.engines.choose import AUTO
from platen.engines.options import EngineOptions
from platen.engines.protocol import Engine, GenerationRequest, SamplingParams
from platen.engines.registry import EngineSpec, engines
from platen.models.resolve import BUNDLE, ResolvedModel, resolve

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
    model: ResolvedModel | Path | str,
    options: EngineOptions = EngineOptions(max_concurrent=AT_ONCE),
    *,
    again: bool = False,
    tell: Tell = lambda _: None,
) -> list[SpeedMeasurement | Missing]:
    """Figures of each engine for a bundle, fastest first with `AT_ONCE` requests, then what is missing.

    What was measured here before is not measured again unless `again`. Forms that don't exist yet are
    compiled into the cache. Raises BundleError.
    """
    bundle = model if isinstance(model, ResolvedModel) else resolve(model)
    if bundle.compiled is not None:
        raise BundleError(
            f"{bundle.path} is compiled already", hint="Give the bundle that it was compiled from."
        )
    config = bundle.config
    known = {} if again else {one.engine: one for one in read_measurements(config, options.device)}
    rows: list[SpeedMeasurement | Missing] = []
    for spec in measurable(options.device):
        if not spec.installed:
            rows.append(Missing(spec.name, f"not installed: pip install 'platen[{spec.extra}]'"))
        elif BUNDLE in spec.forms and (reason := spec.refuses(bundle)) is not None:
            rows.append(Missing(spec.name, reason))
        elif spec.name in known:
            rows.append(known[spec.name])
        else:
            rows.append(_measured(spec, bundle, options, tell))
    found = [row for row in rows if isinstance(row, SpeedMeasurement)]
    write_measurements(config, found, options.device)
    return [
        *sorted(found, key=lambda row: row.decode_crowded, reverse=True),
        *(row for row in rows if isinstance(row, Missing)),
    ]


def measurable(device: str = AUTO) -> list[EngineSpec]:
    """Engines that compute on a device here and run bundles, or forms that bundles are compiled to."""
    return [
        spec
        for spec in engines().values()
        if spec.rank is not None
        and (device == AUTO or device.partition(":")[0] in spec.devices)
        and any(form == BUNDLE or form in COMPILED_WEIGHTS for form in spec.forms)
    ]


def _form_for(spec: EngineSpec, bundle: ResolvedModel, tell: Tell) -> ResolvedModel:
    """The bundle in the form that the engine runs, compiled into the cache when it is not there."""
    from platen.compress.compile import compile_bundle

    if BUNDLE in spec.forms:
        return bundle
    to = next(form for form in spec.forms if form in COMPILED_WEIGHTS)
    weights = COMPILED_WEIGHTS[to][0]
    folder = compiled_folder(bundle.fingerprint, to, weights)
    if not folder.is_dir():
        tell(f"compiling to {to}, {weights}")
        with replaced_folder(folder) as new:
            compile_bundle(bundle.path, new, to, weights)
    return resolve(folder)


def _measured(
    spec: EngineSpec, bundle: ResolvedModel, options: EngineOptions, tell: Tell
) -> SpeedMeasurement | Missing:
    try:
        form = _form_for(spec, bundle, tell)
        tell(f"measuring {spec.name}")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(measure, form.path, spec.name, options).result()
    except BrokenProcessPool:
        return Missing(spec.name, "its process died: not enough memory?")
    except (PlatenError, RuntimeError) as error:
        return Missing(spec.name, str(error).splitlines()[0])


def measure(
    path: Path, engine: str, options: EngineOptions = EngineOptions(max_concurrent=AT_ONCE)
) -> SpeedMeasurement:
    """Open the form at `path` with an engine in this process and time it."""
    return asyncio.run(_measure(resolve(path), engine, options))


async def _measure(form: ResolvedModel, name: str, options: EngineOptions) -> SpeedMeasurement:
    import numpy as np
    import psutil

    from platen.engines.local import open_model

    model = open_model(form, options, engine=name)
    engine = model.engine
    try:
        window, vocabulary = engine.capacity().context_window, form.config.vocab_size
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
        return SpeedMeasurement(name, form.weights, *alone, *crowded, memory)
    finally:
        await engine.close()


async def _speeds(engine: Engine, prompts: Sequence[Sequence[int]], new: int) -> tuple[float, float]:
    """Tokens a second of the prefill of all prompts, then of decode while all of them decode."""
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
